"""The sample collection: its manifest, its files, and that the same seed draws the same bytes."""

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tools import samples

Row = dict[str, str]


@pytest.fixture(scope="module", autouse=True)
def halved() -> Iterator[None]:
    """Pictures of half the size, each side: they are drawn in a quarter of the time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(samples, "SIZES", tuple((width // 2, height // 2) for width, height in samples.SIZES))
        yield


@pytest.fixture(scope="module")
def collection(halved: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the manifest of a collection drawn once for all the tests, in a folder that was missing."""
    return samples.write_collection(tmp_path_factory.mktemp("samples") / "new" / "folder")


@pytest.fixture(scope="module")
def rows(collection: Path) -> list[Row]:
    with collection.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def small(path: Path, mirrored: bool = False) -> samples.Array:
    """Return the picture at `path`, mirrored or not, as (32, 32, 3) values in 0..255."""
    with Image.open(path) as image:
        reduced = image.convert("RGB").resize((32, 32))
    return np.asarray(ImageOps.mirror(reduced) if mirrored else reduced, dtype=np.float64)


def test_manifest_lists_twelve_families_of_twenty(collection: Path, rows: list[Row]) -> None:
    assert collection.read_text(encoding="utf-8").splitlines()[0] == "uri,title,label,edit_of"
    assert Counter(row["label"] for row in rows) == dict.fromkeys(samples.FAMILIES, 20)
    assert len(samples.FAMILIES) == 12 and len(rows) == 240
    assert len({row["uri"] for row in rows}) == len({row["title"] for row in rows}) == 240
    assert Counter(row["label"] for row in rows if row["edit_of"]) == dict.fromkeys(samples.FAMILIES, 4)


def test_edits_name_a_drawn_picture_of_their_own_family(rows: list[Row]) -> None:
    drawn = {row["uri"]: row for row in rows if not row["edit_of"]}
    for row in rows:
        if row["edit_of"]:
            original = drawn[row["edit_of"]]
            assert original["label"] == row["label"]
            edit = row["title"].removeprefix(original["title"] + ", ")
            assert edit in samples.EDITS
            assert Path(row["uri"]).stem == f"{Path(original['uri']).stem}-{edit}"
    assert len({row["edit_of"] for row in rows}) == 1 + 48


def test_files_are_the_ones_listed_and_of_the_format_they_say(collection: Path, rows: list[Row]) -> None:
    formats: Counter[str] = Counter()
    for row in rows:
        assert row["uri"].startswith(row["label"] + "/")
        with Image.open(collection.parent / row["uri"]) as image:
            image.load()
            assert image.format == {".png": "PNG", ".jpg": "JPEG"}[Path(row["uri"]).suffix]
            assert image.mode == "RGB"
            assert all(160 <= side <= 240 for side in image.size)
            formats[image.format] += 1
    assert formats == {"PNG": 120, "JPEG": 120}
    files = {path.relative_to(collection.parent).as_posix() for path in collection.parent.rglob("*") if path.is_file()}
    assert files == {row["uri"] for row in rows} | {"manifest.csv"}


def test_edits_are_nearer_to_their_originals_than_other_families_are(collection: Path, rows: list[Row]) -> None:
    folder = collection.parent
    drawn = [row for row in rows if not row["edit_of"]]
    pictures = np.stack([small(folder / row["uri"]) for row in drawn])
    for row in rows:
        if row["edit_of"]:
            original = small(folder / row["edit_of"])
            others = pictures[[other["label"] != row["label"] for other in drawn]]
            edit = small(folder / row["uri"], mirrored=row["title"].endswith("mirrored"))
            assert np.abs(edit - original).mean() < np.abs(others - original).mean(axis=(1, 2, 3)).min(), row["uri"]


@pytest.mark.parametrize("label", samples.FAMILIES)
def test_same_generator_draws_the_same_picture(label: str) -> None:
    first, again, other = (samples.FAMILIES[label](np.random.default_rng((seed, 1)), (120, 80)) for seed in (5, 5, 6))
    assert first.size == (120, 80) and first.mode == "RGB"
    assert first.tobytes() == again.tobytes() != other.tobytes()


def test_same_seed_writes_the_same_bytes(collection: Path, rows: list[Row], tmp_path: Path) -> None:
    (tmp_path / "mondrian").mkdir()
    number = list(samples.FAMILIES).index("mondrian")
    again = list(samples.draw_family(tmp_path, 0, number, "mondrian"))
    assert again == [tuple(row.values()) for row in rows if row["label"] == "mondrian"]
    for uri, *_ in again:
        assert (tmp_path / uri).read_bytes() == (collection.parent / uri).read_bytes()


def test_a_collection_that_is_there_is_left_alone(collection: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in collection.parent.rglob("*")}
    assert samples.main([str(collection.parent), "--seed", "3"]) == 0
    assert capsys.readouterr().out == f"{collection} is there already: nothing drawn\n"
    assert {path: path.stat().st_mtime_ns for path in collection.parent.rglob("*")} == before


def test_command_says_what_it_drew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "write_collection", lambda folder, seed, processes: folder / f"seed-{seed}")
    assert samples.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"drew 240 pictures in 12 families: {tmp_path}\n"


def test_an_interrupted_drawing_leaves_no_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
        raise KeyboardInterrupt

    monkeypatch.setattr(samples, "FAMILIES", {"mondrian": samples.FAMILIES["mondrian"], "broken": fails})
    with pytest.raises(KeyboardInterrupt):
        samples.write_collection(tmp_path)
    assert any((tmp_path / "mondrian").iterdir())
    assert not (tmp_path / "manifest.csv").exists()


def test_negative_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        samples.write_collection(tmp_path, seed=-1)
    with pytest.raises(SystemExit) as ended:
        samples.main([str(tmp_path / "none"), "--seed", "-1"])
    assert ended.value.code == 2 and not (tmp_path / "none").exists()


def test_processes_draw_the_same_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its own module, whose sizes are not halved: one family, so that it is soon drawn."""
    monkeypatch.setattr(samples, "FAMILIES", dict(list(samples.FAMILIES.items())[:1]))
    samples.write_collection(tmp_path / "two", processes=2)
    monkeypatch.setattr(samples, "SIZES", tuple((2 * width, 2 * height) for width, height in samples.SIZES))
    samples.write_collection(tmp_path / "one")
    one, two = (sorted(file for file in (tmp_path / name).rglob("*") if file.is_file()) for name in ("one", "two"))
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in two] and len(one) == 21
