"""Settings: defaults, precedence, and that every fault is told at once with what would be right."""

from pathlib import Path

import pytest

from image_similarity import settings
from image_similarity.errors import WrongInput

ROOT = Path(__file__).resolve().parents[2]


def test_defaults_need_no_file() -> None:
    loaded = settings.load(None)
    assert loaded.fingerprints["vgg16-fc2"].model_dump()["network"] == "vgg16"
    assert loaded.neighbours.similar == loaded.neighbours.dissimilar == 12
    assert loaded.embeddings.max_failed_fraction == 0.05


@pytest.mark.parametrize("name", ["local", "cluster"])
def test_shipped_files_are_valid(name: str) -> None:
    loaded = settings.load(ROOT / "conf" / f"{name}.toml")
    declared = loaded.fingerprints["vgg16-fc2"]
    assert isinstance(declared, settings.NetworkSettings) and ("untrained" in declared.weights) == (name == "local")


def test_overrides_win_and_are_read_as_toml_or_text(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[neighbours]\nsimilar = 3\nmetric = "euclidean"\n')
    overrides = [
        "neighbours.similar=5",
        "neighbours.metric=correlation",
        'manifest.extensions=["PNG", ".JPG"]',
    ]
    loaded = settings.load(file, overrides)
    assert (loaded.neighbours.similar, loaded.neighbours.metric) == (5, "correlation")
    assert loaded.manifest.extensions == ("png", "jpg")


def test_an_override_may_declare_a_fingerprint() -> None:
    loaded = settings.load(
        None, ['fingerprints.mine={network="resnet18", layer="avgpool"}', "fingerprints.mine.seed=7"]
    )
    mine = loaded.fingerprint("mine")
    assert isinstance(mine, settings.NetworkSettings) and (mine.network, mine.seed) == ("resnet18", 7)
    assert "vgg16-fc2" in loaded.fingerprints


def test_all_faults_are_told_at_once() -> None:
    overrides = ["neighbours.similiar=3", "embeddings.device=gpu", "embeddings.max_failed_fraction=2", "nonsense.x=1"]
    overrides += [
        "neighbours.block_rows=many",
        "fingerprints.Bad_Name.network=vgg16",
        "fingerprints.good.network=vgg16",
    ]
    with pytest.raises(WrongInput) as caught:
        settings.load(None, overrides)
    told = str(caught.value)
    assert "neighbours.similiar: no such setting; did you mean 'similar'?" in told
    assert "embeddings.device: input should be 'auto', 'cpu' or 'cuda', not 'gpu'" in told
    assert "embeddings.max_failed_fraction: input should be less than or equal to 1, not 2" in told
    assert "nonsense: no such setting" in told
    assert "neighbours.block_rows: input should be a valid integer, not 'many'" in told
    assert "fingerprints.good.layer: is missing" in told
    assert caught.value.exit_code == 2


def test_asking_for_nothing_is_a_fault() -> None:
    with pytest.raises(WrongInput, match="both 0"):
        settings.load(None, ["neighbours.similar=0", "neighbours.dissimilar=0"])


@pytest.mark.parametrize("name", ["Capital", "under_score", "a/b", ""])
def test_names_of_fingerprints(name: str) -> None:
    with pytest.raises(WrongInput, match="small letters"):
        settings.load(None, [f'fingerprints={{"{name}"={{network="vgg16", layer="fc1"}}}}'])


@pytest.mark.parametrize("override", ["neighbours.similar", "=3", "a..b=1"])
def test_malformed_overrides(override: str) -> None:
    with pytest.raises(WrongInput, match="section.key=value"):
        settings.load(None, [override])


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(WrongInput, match="not found"):
        settings.load(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[neighbours\n")
    with pytest.raises(WrongInput, match="not valid TOML"):
        settings.load(broken)


def test_an_undeclared_fingerprint_names_the_declared() -> None:
    with pytest.raises(WrongInput, match="declared are: vgg16-fc2"):
        settings.load(None).fingerprint("other")


def test_settings_cannot_change() -> None:
    with pytest.raises(Exception, match="frozen"):
        settings.load(None).neighbours.similar = 3


def test_old_names_are_read(tmp_path: Path) -> None:
    file = tmp_path / "old.toml"
    file.write_text(
        '[neighbours]\ncopies = "one"\n[approximate]\npartitions = 7\nvisits = 5\nwidenings = 1\nsettled = 0.1\n'
        'descent_rows = 9\n[fingerprints.edges]\nnetwork = "hog"\nsize = 64\n'
    )
    loaded = settings.load(file)
    assert (
        loaded.neighbours.drop_duplicates is True and loaded.approximate.nlist == 7 and loaded.approximate.nprobe == 5
    )
    assert loaded.approximate.probe_doublings == 1 and loaded.approximate.delta == 0.1
    assert loaded.approximate.nndescent_rows == 9 and loaded.fingerprint("edges").kind == "hog"
    later = settings.load(file, ["neighbours.drop_duplicates=false", "approximate.visits=3", "approximate.nlist=2"])
    assert later.neighbours.drop_duplicates is False, "the later layer wins, whatever name it uses"
    assert (later.approximate.nprobe, later.approximate.nlist) == (3, 2)
    assert settings.load(None, ["neighbours.copies=all"]).neighbours.drop_duplicates is False


def test_faults_are_told_where_they_were_made(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[neighbours]\nsimilar = -1\n")
    with pytest.raises(WrongInput) as raised:
        settings.load(file, ["neighbours.dissimilar=five", "fingerprints.x={kind=3}"])
    lines = [line.strip() for line in str(raised.value).splitlines()]
    of_file = lines[lines.index(f"wrong settings in {file}:") + 1]
    given = lines.index("wrong settings on the command line:")
    assert of_file.startswith("neighbours.similar: ") and len(lines) == 5
    assert {line.partition(":")[0] for line in lines[given + 1 : given + 3]} == {
        "neighbours.dissimilar",
        "fingerprints.x.kind",
    }


def test_one_key_under_both_names_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "both.toml"
    file.write_text("[approximate]\nvisits = 5\nnprobe = 6\n")
    with pytest.raises(WrongInput, match=r"both.toml: approximate.nprobe is given twice, once under its old name"):
        settings.load(file)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ('{kind="pcs", base="vgg16-fc2"}', "fingerprints.x.kind: should be 'network', 'exported', .* not 'pcs'"),
        ('{kind="hog", network="resnet18"}', "fingerprints.x.network: no such setting"),
        ("{kind=3}", "fingerprints.x.kind: should be .* not '3'"),
        ('"hog"', "fingerprints.x"),
    ],
)
def test_wrong_kinds_of_fingerprints(declared: str, message: str) -> None:
    with pytest.raises(WrongInput, match=message):
        settings.load(None, [f"fingerprints.x={declared}"])
