"""Settings: defaults, precedence, and that every fault is told at once with what would be right."""

from pathlib import Path
from typing import Any

import pytest

from image_similarity import conf, settings
from image_similarity.errors import WrongInput
from image_similarity.settings import Given

ROOT = Path(__file__).resolve().parents[2]


def test_defaults_need_no_file() -> None:
    loaded = settings.load(None)
    assert loaded.fingerprints["vgg16-fc2"].model_dump()["network"] == "vgg16"
    assert loaded.neighbours.similar == loaded.neighbours.dissimilar == 12
    assert loaded.embeddings.max_failed_fraction == 0.05


@pytest.mark.parametrize("name", ["local", "cluster"])
def test_shipped_files_are_valid(name: str) -> None:
    loaded = settings.load([ROOT / "conf" / f"{name}.toml"])
    declared = loaded.fingerprints["vgg16-fc2"]
    assert isinstance(declared, settings.NetworkSettings) and ("untrained" in declared.weights) == (name == "local")


def test_the_shipped_file_changes_no_default_but_that_of_weights() -> None:
    """Other files are laid over it, those of clusters, too."""
    shipped, plain = settings.load([conf.local_toml()]), settings.load(None)
    assert shipped.model_dump(exclude={"fingerprints"}) == plain.model_dump(exclude={"fingerprints"})
    of_cluster = settings.load([conf.local_toml(), ROOT / "conf" / "cluster.toml"])
    assert of_cluster.fingerprint("vgg16-fc2") == plain.fingerprint("vgg16-fc2"), "without untrained"


def test_overrides_win_and_are_read_as_toml_or_text(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[neighbours]\nsimilar = 3\nmetric = "euclidean"\n')
    overrides = [
        "neighbours.similar=5",
        "neighbours.metric=correlation",
        'manifest.extensions=["PNG", ".JPG"]',
    ]
    loaded = settings.load([file], overrides)
    assert (loaded.neighbours.similar, loaded.neighbours.metric) == (5, "correlation")
    assert loaded.manifest.extensions == ("png", "jpg")


def test_a_number_may_begin_with_its_point() -> None:
    program = ['fingerprints.p={kind="exported",weights="p.pt2"}', "fingerprints.p.mean=[.5, .25,0.1]"]
    loaded = settings.load([], ["tags.threshold=.01", "tags.temperature=+.5e1", "gallery.title=v.5 of .5", *program])
    assert (loaded.tags.threshold, loaded.tags.temperature) == (0.01, 5.0)
    assert loaded.fingerprints["p"].model_dump()["mean"] == (0.5, 0.25, 0.1)
    assert loaded.gallery.title == "v.5 of .5"
    assert settings.load([], ['gallery.title=".5"']).gallery.title == ".5"
    assert settings.load([], [], [settings.Given("tags.threshold=.2", "--threshold .2")]).tags.threshold == 0.2


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
        "fingerprints.good.seed=1",
    ]
    with pytest.raises(WrongInput) as caught:
        settings.load(None, overrides)
    told = str(caught.value)
    assert "--set neighbours.similiar=3: no such setting; did you mean neighbours.similar?" in told
    assert "--set embeddings.device=gpu: should be 'auto', 'cpu' or 'cuda', not 'gpu'" in told
    assert "--set embeddings.max_failed_fraction=2: should be less than or equal to 1, not 2" in told
    assert "nonsense: no such setting" in told
    assert "--set neighbours.block_rows=many: should be a valid integer, not 'many'" in told
    assert "--set fingerprints.good.seed=1: fingerprints.good.network: is missing" in told
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("gallery.page_size=10", "no such setting; did you mean gallery.images_per_page?"),
        ("gallery.pagesize=10", "no such setting; did you mean gallery.images_per_page?"),
        ("page_size=10", "a setting is SECTION.KEY; did you mean gallery.images_per_page?"),
        ("similar=3", "a setting is SECTION.KEY; did you mean neighbours.similar or search.similar?"),
        ("gallery=3", "a setting is SECTION.KEY; all of [gallery]: title, title_attributes,"),
        ("zzz=3", "a setting is SECTION.KEY, as gallery.title; sections are manifest, embeddings,"),
        ("zzz.y=3", "zzz: no such setting; sections are manifest, embeddings,"),
        ("gallery.zzz=3", "no such setting; all of [gallery]: title, title_attributes,"),
        ("embeddings.similr=4", "no such setting; did you mean neighbours.similar or search.similar?"),
        ("fingerprints.vgg16-fc2.zzz=1", "no such setting; all of [fingerprints.vgg16-fc2]: kind, decoding,"),
        ("fingerprints.colours={kind='colour-histogram',bins=4}", "bins: should be a list of 3 numbers, as [1, 2, 3]"),
        ("fingerprints.own={kind='exported',weights='a',mean='0.5,0.5'}", "should be a list of 3 numbers"),
        ("fingerprints.own={kind='exported',weights='a',std=[1,1]}", "should be a list of 3 numbers"),
        ("fingerprints.own={kind='exported',weights='a',std=[1,1,inf]}", "should be a finite number, not inf"),
        ("quality.odd_aspect=inf", "quality.odd_aspect=inf: should be a finite number, not inf"),
        ("http.read_seconds=inf", "should be a finite number, not inf"),
        ("manifest.extensions=[]", "should name at least one, not none"),
        ("gallery.group_by=4", 'should be a list, as ["a", "b"], not 4'),
    ],
)
def test_near_names_of_settings(override: str, told: str) -> None:
    with pytest.raises(WrongInput) as caught:
        settings.load(None, [override])
    assert told in str(caught.value) and "uple" not in str(caught.value)


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
    with pytest.raises(WrongInput, match="no such file"):
        settings.load([tmp_path / "none.toml"])
    broken = tmp_path / "broken.toml"
    broken.write_text("[neighbours\n")
    with pytest.raises(WrongInput, match="not valid TOML"):
        settings.load([broken])


def test_an_undeclared_fingerprint_names_the_declared() -> None:
    with pytest.raises(WrongInput, match="declared are vgg16-fc2; declare it by --network or --weights"):
        settings.load(None).fingerprint("other")
    many = [f'fingerprints.n{number}={{kind="hog"}}' for number in range(30)]
    with pytest.raises(WrongInput, match=r"'n7x' is not declared; did you mean n7.*\? declared are .* and 23 more"):
        settings.load(None, many).fingerprint("n7x")


def test_settings_cannot_change() -> None:
    with pytest.raises(Exception, match="frozen"):
        settings.load(None).neighbours.similar = 3


def test_old_names_are_read(tmp_path: Path) -> None:
    file = tmp_path / "old.toml"
    file.write_text(
        '[neighbours]\ncopies = "one"\n[approximate]\npartitions = 7\nvisits = 5\nwidenings = 1\nsettled = 0.1\n'
        'descent_rows = 9\n[fingerprints.edges]\nnetwork = "hog"\nsize = 64\n'
    )
    loaded = settings.load([file])
    assert (
        loaded.neighbours.drop_duplicates is True and loaded.approximate.nlist == 7 and loaded.approximate.nprobe == 5
    )
    assert loaded.approximate.probe_doublings == 1 and loaded.approximate.delta == 0.1
    assert loaded.approximate.nndescent_rows == 9 and loaded.fingerprint("edges").kind == "hog"
    later = settings.load([file], ["neighbours.drop_duplicates=false", "approximate.visits=3", "approximate.nlist=2"])
    assert later.neighbours.drop_duplicates is False, "the later layer wins, whatever name it uses"
    assert (later.approximate.nprobe, later.approximate.nlist) == (3, 2)
    assert settings.load(None, ["neighbours.copies=all"]).neighbours.drop_duplicates is False


def test_faults_are_told_where_they_were_made(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[neighbours]\nsimilar = -1\n")
    with pytest.raises(WrongInput) as raised:
        settings.load([file], ["neighbours.dissimilar=five", "fingerprints.x={kind=3}"])
    lines = [line.strip() for line in str(raised.value).splitlines()]
    assert lines[0] == "wrong settings:" and {line.partition(": ")[0] for line in lines[1:]} == {
        str(file),
        "--set neighbours.dissimilar=five",
        "--set fingerprints.x={kind=3}",
    }
    assert f"{file}: neighbours.similar: should be greater than or equal to 0, not -1" in lines


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"overrides": ["neighbors.similar=3"]}, r"--set neighbors.similar=3: neighbors: .* did you mean neighbours\?"),
        (
            {"overrides": ["embeddings.similar=3"]},
            r"=3: no such setting; did you mean neighbours\.similar or search\.similar\?",
        ),
        ({"overrides": ["neighbours=3"]}, r"--set neighbours=3: a setting is SECTION.KEY; all of \[neighbours\]: fing"),
        (
            {"flags": [Given('neighbours.metric="cosin"', "--metric cosin")]},
            r"^--metric cosin: .* mean cosine\?$",
        ),
        ({"flags": [Given("neighbours.similar=five", "-k five")]}, "^-k five: should be a valid integer, not 'five'$"),
        (
            {"overrides": ["neighbours.similar=0"], "flags": [Given("neighbours.dissimilar=0", "--dissimilar 0")]},
            "^--set neighbours.similar=0, --dissimilar 0: neighbours: similar and dissimilar are both 0",
        ),
    ],
)
def test_the_command_line_is_blamed_for_its_own_faults_in_one_line(
    given: dict[str, Any], told: str, tmp_path: Path
) -> None:
    """The file is right, and sets other keys of the same tables."""
    file = tmp_path / "right.toml"
    file.write_text("[neighbours]\nblock_rows = 7\n[fingerprints.edges]\nkind = 'hog'\n")
    with pytest.raises(WrongInput, match=told) as raised:
        settings.load([file], **given)
    assert "\n" not in str(raised.value) and "right.toml" not in str(raised.value)


def test_a_fault_of_a_fingerprint_is_blamed_on_the_file_that_declares_it(tmp_path: Path) -> None:
    for name, base in (("good", "vgg16-fc2"), ("bad", "vgg16-fc3")):
        (tmp_path / f"{name}.toml").write_text(f"[fingerprints.{name}]\nkind='pca'\nbase='{base}'\ndimensions=3\n")
    for files in (["good", "bad"], ["bad", "good"]):
        with pytest.raises(WrongInput) as raised:
            settings.load([tmp_path / f"{name}.toml" for name in files], ["fingerprints.x.kind=hog"])
        assert str(raised.value).startswith(f"{tmp_path}/bad.toml: fingerprints.bad: bad: base 'vgg16-fc3'")
        assert "did you mean vgg16-fc2?" in str(raised.value)


def test_a_missing_key_is_missing_where_its_table_begins(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[fingerprints.x]\nseed = 1\n")
    with pytest.raises(WrongInput, match=f"^{file}: fingerprints.x.network: is missing$"):
        settings.load([file], ["fingerprints.x.pooling=max"])
    with pytest.raises(WrongInput, match="^--set fingerprints.x.seed=1: fingerprints.x.network: is missing$"):
        settings.load(None, ["fingerprints.x.seed=1", "fingerprints.x.pooling=max"])


def test_files_are_laid_over_one_another_key_by_key(tmp_path: Path) -> None:
    """Tables are merged; a list or a value replaces; the fingerprints that come with the package stay."""
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    first.write_text(
        '[neighbours]\nsimilar = 3\ndissimilar = 4\n[manifest]\nextensions = ["png", "gif"]\n'
        '[fingerprints.mine]\nnetwork = "resnet18"\nlayer = "avgpool"\nseed = 7\n'
    )
    second.write_text('[neighbours]\nsimilar = 5\n[manifest]\nextensions = ["webp"]\n[fingerprints.mine]\nseed = 8\n')
    loaded = settings.load([conf.local_toml(), first, second])
    assert (loaded.neighbours.similar, loaded.neighbours.dissimilar) == (5, 4)
    assert loaded.manifest.extensions == ("webp",)
    mine, shipped = loaded.fingerprint("mine"), settings.load([conf.local_toml()]).fingerprints
    assert isinstance(mine, settings.NetworkSettings) and (mine.layer, mine.seed) == ("avgpool", 8)
    assert set(loaded.fingerprints) == {*shipped, "mine"} and len(shipped) == 3
    assert settings.load([conf.local_toml(), second, first]).neighbours.similar == 3, "the later one wins"


@pytest.mark.parametrize("keys", ['kind = "hog"', 'kind = "exported"\nweights = "x.pt2"', 'network = "resnet18"'])
def test_a_fingerprint_of_another_kind_replaces_the_declaration(keys: str, tmp_path: Path) -> None:
    """Its keys would be merged with keys that it does not have."""
    file = tmp_path / "mine.toml"
    file.write_text(f"[fingerprints.colour-histogram]\n{keys}\n")
    assert settings.load([conf.local_toml(), file]).fingerprint("colour-histogram").kind != "colour-histogram"


def test_keys_given_singly_before_the_kind_is_known_stay() -> None:
    loaded = settings.load(
        None,
        ["fingerprints.x.resize=300"],
        [Given("fingerprints.x.kind=exported", "--weights x.pt2")]
        + [Given('fingerprints.x.weights="x.pt2"', "--weights x.pt2")],
    )
    declared = loaded.fingerprint("x")
    assert isinstance(declared, settings.ExportedSettings) and declared.resize == 300


def test_one_key_under_both_names_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "both.toml"
    file.write_text("[approximate]\nvisits = 5\nnprobe = 6\n")
    with pytest.raises(WrongInput, match=r"both.toml: approximate.nprobe is given twice, once under its old name"):
        settings.load([file])


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ('{kind="pcs", base="vgg16-fc2"}', "should be 'network', 'exported', .* not 'pcs'; did you mean pca"),
        ('{kind="hog", network="resnet18"}', "fingerprints.x.network: no such setting"),
        ("{kind=3}", "should be .* not '3'"),
        ('"hog"', "fingerprints.x"),
    ],
)
def test_wrong_kinds_of_fingerprints(declared: str, message: str) -> None:
    with pytest.raises(WrongInput, match=message):
        settings.load(None, [f"fingerprints.x={declared}"])
