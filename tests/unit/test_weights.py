"""Where weights come from, and what is refused: real files, a real server on loopback."""

import errno
import hashlib
import os
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from image_similarity import __version__, settings
from image_similarity.errors import JobFailed, Unreadable, WrongInput
from image_similarity.fingerprints import networks
from image_similarity.stages.embeddings import local_weights, prepare, weights
from image_similarity.storage import http_client
from image_similarity.storage.http_client import Status

NETWORK = "squeezenet1_1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good weights, ``good.pth``."""
    made = tmp_path_factory.mktemp("weights")
    torch.save(networks.untrained_state(NETWORK, 1), made / "good.pth")
    return made


agents: list[str] = []
"""How those who asked the server called themselves."""


@pytest.fixture
def server(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Its address, and the paths that were asked of it."""
    with serving(folder) as served:
        yield served


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    agents.clear()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            asked.append(self.path)
            agents.append(str(self.headers["User-Agent"]))

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}", asked
        httpd.shutdown()


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "good.pth").read_bytes()).hexdigest()


def test_a_local_file(folder: Path, tmp_path: Path) -> None:
    found = weights.resolve(NETWORK, [str(folder / "good.pth")], digest(folder), 0, tmp_path)
    assert found.trained and found.source.endswith("good.pth")
    assert networks.state_sha256(found.state) == networks.state_sha256(networks.untrained_state(NETWORK, 1))


def test_a_server_is_asked_once(server: tuple[str, list[str]], folder: Path, tmp_path: Path) -> None:
    address, asked = server
    for _ in range(2):
        found = weights.resolve(NETWORK, [f"{address}/good.pth"], digest(folder), 0, tmp_path / "cache")
        assert found.trained
    assert asked == ["/good.pth"] and agents == [f"image-similarity/{__version__}"]


def test_a_file_that_was_replaced_at_its_address_is_noticed(tmp_path: Path) -> None:
    """Unpinned: the copy is taken while the file at the address is the same, and the file is fetched again after."""
    served = tmp_path / "served"
    served.mkdir()
    with serving(served) as (address, asked):
        names, cache = [f"{address}/w.pth", "untrained"], tmp_path / "cache"
        torch.save(networks.untrained_state(NETWORK, 1), served / "w.pth")
        first = weights.resolve(NETWORK, names, None, 0, cache)
        again = weights.resolve(NETWORK, names, None, 0, cache)
        assert first.notes == again.notes == () and asked == ["/w.pth"] * 3  # HEAD and GET, then HEAD
        torch.save(networks.untrained_state(NETWORK, 2), served / "w.pth")
        os.utime(served / "w.pth", (2e9, 2e9))
        replaced = weights.resolve(NETWORK, names, None, 0, cache)
        assert "they have changed since they were fetched" in replaced.notes[0]
        assert networks.state_sha256(replaced.state) == networks.state_sha256(networks.untrained_state(NETWORK, 2))
        assert weights.resolve(NETWORK, names, None, 0, cache).notes == ()
    silent = weights.resolve(NETWORK, names, None, 0, cache)
    assert "whether they have changed could not be asked; the copy of 20" in silent.notes[0] and silent.trained


def test_a_new_file_that_cannot_be_fetched_leaves_the_copy(
    server: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, cache = [f"{server[0]}/good.pth"], tmp_path / "cache"
    weights.resolve(NETWORK, names, None, 0, cache)
    monkeypatch.setattr(http_client, "status", lambda address, options: Status(1, "new", None))

    def broken(address: str, file: Path, options: object) -> None:
        raise Unreadable("incomplete", "the connection broke")

    monkeypatch.setattr(http_client, "download", broken)
    found = weights.resolve(NETWORK, names, None, 0, cache)
    assert found.trained and "they have changed, but cannot be fetched" in found.notes[0]


def test_proxies_of_the_environment_are_not_used(
    server: tuple[str, list[str]], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert weights.resolve(NETWORK, [f"{server[0]}/good.pth"], digest(folder), 0, tmp_path / "cache").trained


def test_torchvisions_weights_are_downloaded_by_torch_hub(
    server: tuple[str, list[str]], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"squeezenet1_1-{digest(folder)[:8]}.pth"
    (folder / name).write_bytes((folder / "good.pth").read_bytes())
    named = type(
        "W", (), {"__members__": {"V1": _Url(f"{server[0]}/{name}"), "V2": _Url("http://127.0.0.1:9/none-0.pth")}}
    )
    monkeypatch.setattr(weights, "get_model_weights", lambda _: named)
    found = weights.resolve(NETWORK, ["V2", "V1"], None, 0, tmp_path / "cache")
    assert found.source == "V1" and agents == ["torch.hub"] and "refused" in found.passed_over[0]
    assert [file.name for file in (tmp_path / "cache").iterdir()] == [name]


def test_a_wrong_checksum_is_refused_and_not_kept(server: tuple[str, list[str]], tmp_path: Path) -> None:
    with pytest.raises(WrongInput, match="it is damaged or another file") as caught:
        weights.resolve(NETWORK, [f"{server[0]}/good.pth", "untrained"], "0" * 64, 0, tmp_path / "cache")
    assert "0" * 64 in str(caught.value)
    assert not list((tmp_path / "cache").iterdir())


def test_a_torchvision_name_comes_from_its_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is found by torchvision's name and checked against the digest in that name."""
    cached = tmp_path / f"squeezenet1_1-{digest(folder)[:8]}.pth"
    cached.write_bytes((folder / "good.pth").read_bytes())
    monkeypatch.setattr(
        weights,
        "get_model_weights",
        lambda _: type("W", (), {"__members__": {"V1": _Url(f"http://x.invalid/{cached.name}")}}),
    )
    assert weights.resolve(NETWORK, ["V1"], None, 0, tmp_path).source == "V1"
    cached.write_bytes(b"damaged")
    with pytest.raises(WrongInput, match="damaged"):
        weights.resolve(NETWORK, ["V1"], None, 0, tmp_path)


class _Url:
    def __init__(self, url: str):
        self.url = url


def test_what_cannot_be_reached_is_passed_over_and_told(server: tuple[str, list[str]], tmp_path: Path) -> None:
    names = [f"{server[0]}/missing.pth", str(tmp_path / "missing.pth"), "http://127.0.0.1:9/x.pth", "untrained"]
    found = weights.resolve(NETWORK, names, None, 5, tmp_path / "cache")
    assert not found.trained and found.source == "untrained (seed 5)"
    assert len(found.passed_over) == 3 and "404" in found.passed_over[0] and "no such file" in found.passed_over[1]
    with pytest.raises(JobFailed, match="404") as caught:
        weights.resolve(NETWORK, names[:3], None, 5, tmp_path / "cache")
    assert str(caught.value).endswith("that this machine reaches it; or name a file on this machine")
    assert "untrained" not in str(caught.value) and caught.value.exit_code == 1


def test_untrained_is_advised_for_torchvisions_own_weights_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = type("W", (), {"__members__": {"V1": _Url("http://127.0.0.1:9/none-0.pth")}})
    monkeypatch.setattr(weights, "get_model_weights", lambda _: named)
    with pytest.raises(JobFailed, match="Fetch http://127.0.0.1:9/none-0.pth .*; or give --weights untrained, for"):
        weights.resolve(NETWORK, ["V1"], None, 0, tmp_path / "cache")


def test_a_misspelt_path_gets_the_files_that_are_near(folder: Path, tmp_path: Path) -> None:
    missing = [str(folder / "god.pth")]
    for resolve in (
        lambda: weights.resolve(NETWORK, missing, None, 0, tmp_path),
        lambda: weights.resolve_program(missing, None, tmp_path),
        lambda: prepare.check("x", settings.NetworkSettings(network=NETWORK, weights=tuple(missing))),
        lambda: prepare.check("x", settings.ExportedSettings(kind="exported", weights=tuple(missing))),
    ):
        with pytest.raises(WrongInput, match=f"no such file: {missing[0]}; did you mean good.pth\\?$"):
            resolve()
    with pytest.raises(WrongInput, match=rf"no such file: {folder}x/good.pth \(there is no {folder}x\); did you mean"):
        weights.resolve(NETWORK, [f"{folder}x/good.pth"], None, 0, tmp_path)
    with pytest.raises(WrongInput, match="this is a folder, name a file in it; there are: good.pth"):
        weights.resolve(NETWORK, [str(folder)], None, 0, tmp_path)
    assert not weights.resolve(NETWORK, [*missing, "untrained"], None, 0, tmp_path).trained


def test_a_file_whose_name_has_no_ending_is_taken(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "good").write_bytes((folder / "good.pth").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert weights.resolve(NETWORK, ["good"], None, 0, tmp_path).trained


@pytest.mark.parametrize(
    ("name", "preprocessing", "told"),
    [
        ("squeezenet-CAFFE.pth", "torchvision", "has caffe in its name, but preprocessing is torchvision"),
        ("squeezenet-caffe.pth", "caffe", None),
        ("mine.pth", "torchvision", None),
        ("mine.pth", "caffe", None),
        ("squeezenet1_1-b8a52dc0.pth", "caffe", "what torchvision calls its own weights, but preprocessing is caffe"),
    ],
)
def test_a_preprocessing_that_the_name_speaks_against(
    name: str, preprocessing: str, told: str | None, folder: Path, tmp_path: Path
) -> None:
    """The values cannot tell: those of the first layer are as large for pixels of 0 to 255 as for normalised ones."""
    (tmp_path / name).write_bytes((folder / "good.pth").read_bytes())
    declared = settings.load(
        None, [f'fingerprints.x={{network="{NETWORK}",weights="{tmp_path / name}",preprocessing="{preprocessing}"}}']
    )
    prepared = prepare.prepare("x", declared.fingerprint("x"), tmp_path, declared.http)
    notes = [note for note in prepared.notes if note.startswith("note: ")]
    assert len(notes) == (told is not None) and all(str(told) in note for note in notes)
    recorded = prepare.record("x", declared.fingerprint("x"), prepared)["fingerprint"]["x"]
    assert (recorded["layer"], recorded["pooling"]) == ("features.12.cat", "average"), "what was left open is recorded"


class Malicious:
    def __init__(self, target: str):
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return open, (self.target, "w")


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "was-here"
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"a": Malicious(str(trap))}))
    torch.save({"a": Malicious(str(trap))}, tmp_path / "evil2.pth")
    for name in ("evil.pth", "evil2.pth"):
        with pytest.raises(WrongInput, match="no state dict"):
            weights.resolve(NETWORK, [str(tmp_path / name), "untrained"], None, 0, tmp_path)
    assert not trap.exists()


@pytest.mark.parametrize("content", [b"", b"<html></html>", b"hello", b"e"], ids=["empty", "html", "text", "letter"])
def test_files_that_are_no_weights(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(WrongInput, match="no state dict that torch.load.* takes: .*[a-z]{4}"):
        weights.resolve(NETWORK, [str(tmp_path / "x.pth")], None, 0, tmp_path)


def test_a_file_with_something_else(tmp_path: Path) -> None:
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    with pytest.raises(WrongInput, match="holds a list, not a state dict"):
        weights.resolve(NETWORK, [str(tmp_path / "list.pth")], None, 0, tmp_path)
    torch.save({"epoch": 3, "state_dict": {"a": torch.zeros(3)}}, tmp_path / "training.pth")
    with pytest.raises(WrongInput, match="holds a dict, not a state dict .*; its entry 'state_dict' is one: save that"):
        weights.resolve(NETWORK, [str(tmp_path / "training.pth")], None, 0, tmp_path)


def test_a_name_that_torchvision_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(
        WrongInput, match=r"no weights 'IMAGENET'; did you mean IMAGENET1K_V1\? torchvision's are: IMAGENET1K_V1"
    ):
        weights.resolve(NETWORK, ["IMAGENET"], None, 0, tmp_path)
    for name, is_wrong in (("IMAGENET1K_V1", False), ("untrained", False), ("http://h/w", False), ("untrain", True)):
        declared = settings.NetworkSettings(network=NETWORK, weights=(name,))
        with (
            pytest.raises(WrongInput, match="no weights 'untrain'; did you mean untrained")
            if is_wrong
            else nullcontext()
        ):
            prepare.check("x", declared)


def test_untrained_is_seeded(tmp_path: Path) -> None:
    digests = [
        networks.state_sha256(weights.resolve(NETWORK, ["untrained"], None, seed, tmp_path).state) for seed in (0, 0, 1)
    ]
    assert digests[0] == digests[1] != digests[2]


def test_what_is_no_file_of_weights_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")  # to open it would wait for ever
    (tmp_path / "link.pth").symlink_to("gone.pth")
    (tmp_path / "own.pth").touch()

    def fault(name: str) -> str:
        with pytest.raises(WrongInput) as caught:
            local_weights.check([f"{tmp_path}/{name}"])
        return str(caught.value)

    assert fault("pipe").endswith("/pipe: this is a named pipe; name a file")
    assert fault("folder").endswith("this is a folder, name a file in it; there are: none")
    assert fault("link.pth").endswith(
        "no such file: " + f"{tmp_path}/link.pth (a link to gone.pth, which is not there)"
    )
    assert "did you mean own.pth?" in fault("owm.pth")
    local_weights.check([f"{tmp_path}/link.pth", "untrained"])  # it may be on a drive that is not there today

    def refused(*_: object) -> list[str]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "listdir", refused)
    assert fault("folder").endswith("name a file in it; what is in it cannot be listed (Permission denied)")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert fault("own.pth").endswith("/own.pth: cannot be read: Permission denied")
    monkeypatch.setattr(os, "stat", refused)
    assert fault("own.pth").endswith("/own.pth: cannot be read: Permission denied")
