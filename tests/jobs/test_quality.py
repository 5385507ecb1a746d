"""The table quality, which embed_images makes of the numbers that it measures while it decodes."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from image_similarity.errors import JobFailed
from image_similarity.imaging import decoding, quality
from image_similarity.jobs import build_manifest, clean_warehouse, embed_images, restore_runs
from image_similarity.warehouse.records import Record
from image_similarity.warehouse.schemas import QUALITY
from image_similarity.warehouse.snapshot import POINTER
from image_similarity.warehouse.warehouse import Warehouse
from processes import ask

Run = Any
CLASSICAL = ["--set", 'fingerprints.colours={kind="colour-histogram"}']
CLASSICAL += ["--set", 'fingerprints.edges={kind="hog",size=32,cell=8}']
RUNNERS = ("process", "spark")
NUMBERS = ", ".join(quality.MEASURES)


def draw(file: Path, seed: int, size: tuple[int, int] = (80, 70)) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(file)


class Collection:
    """A folder of pictures and its warehouse, embedded by one of the runners."""

    def __init__(self, run: Run, place: Path, runner: str):
        self._run, self.pictures, self.warehouse = run, place / "pictures", place / "w"
        self._common = ["--warehouse", self.warehouse, *CLASSICAL, "--set", "embeddings.max_failed_fraction=0.5"]
        self._common += ["--set", f"embeddings.runner={runner}", "--set", f"manifest.runner={runner}"]
        for seed in range(4):
            draw(self.pictures / f"{seed}.png", seed)
        Image.new("RGB", (90, 80), (2, 3, 4)).save(self.pictures / "night.png")
        (self.pictures / "broken.png").write_bytes(b"no picture")

    def embed(self, *arguments: object, fingerprints: tuple[str, ...] = ("colours",), code: int = 0) -> None:
        assert self._run(build_manifest, "--images", self.pictures, *self._common) == 0
        names = [part for name in fingerprints for part in ("--fingerprint", name)]
        assert self._run(embed_images, *self._common, *names, *arguments) == code

    def ask(self, query: str) -> list[Any]:
        return ask(self.warehouse, query)

    @property
    def rows(self) -> list[Any]:
        return self.ask("SELECT * FROM quality ORDER BY image_id")

    @property
    def images(self) -> list[str]:
        return [row[0] for row in self.rows]

    def counts(self, fingerprint: str = "colours") -> dict[str, Any]:
        sql = f"SELECT counts FROM runs WHERE job = 'embed_images' AND slot = '{fingerprint}' "
        counts: dict[str, Any] = json.loads(self.ask(sql + "ORDER BY started_at DESC LIMIT 1")[0][0])
        return counts


@pytest.fixture(params=RUNNERS)
def collection(run: Run, tmp_path: Path, request: pytest.FixtureRequest) -> Collection:
    return Collection(run, tmp_path, request.param)


@pytest.fixture
def by_process(run: Run, tmp_path: Path) -> Collection:
    return Collection(run, tmp_path, "process")


DECODED = ["0.png", "1.png", "2.png", "3.png", "night.png"]


def test_a_row_for_each_picture_that_can_be_decoded(collection: Collection, capsys: Any) -> None:
    """Copies have equal rows, failures none."""
    shutil.copy(collection.pictures / "0.png", collection.pictures / "copy.png")
    collection.embed()
    assert collection.images == [*DECODED[:4], "copy.png", "night.png"]
    sql = f"SELECT width, height, size_bytes, format, flags, {NUMBERS} FROM quality WHERE image_id = "
    size = (collection.pictures / "night.png").stat().st_size
    [night] = collection.ask(f"{sql}'night.png'")
    assert night[:5] == (90, 80, size, "PNG", ["dark", "flat"])
    expected = quality.measure(decoding.decode((collection.pictures / "night.png").read_bytes(), 10**8, 512).image)
    np.testing.assert_array_equal(np.array(night[5:], np.float32), np.array(expected, np.float32))
    assert collection.ask(f"{sql}'0.png'") == collection.ask(f"{sql}'copy.png'")
    same = "SELECT count(*) FROM quality JOIN embeddings USING (image_id, content_sha256, width, height)"
    assert collection.ask(same) == [(6,)]
    counts = collection.counts()
    assert (counts["measured"], counts["not_measured"]) == (6, 0)
    assert counts["flags"]["dark"] == counts["flags"]["flat"] == 1
    assert "quality: 6 images measured: 1 dark" in capsys.readouterr().out


def test_numbers_are_kept_by_content_and_flags_follow_the_settings(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file is read for other limits; one of another name and with known bytes is not decoded."""
    collection.embed()
    before = collection.rows
    (collection.pictures / "1.png").rename(collection.pictures / "renamed.png")
    (collection.pictures / "2.png").unlink()
    # A decoder that refuses all files, in this process's workers and Spark's: nothing may need one.
    collection.embed("--set", "embeddings.max_pixels=1", "--set", "quality.tiny=75", "--set", "quality.dark=0")
    assert collection.images == ["0.png", "3.png", "night.png", "renamed.png"]
    numbers = {row[1]: row[2:-1] for row in collection.rows}
    assert numbers == {row[1]: row[2:-1] for row in before if row[0] != "2.png"}
    assert collection.ask("SELECT count(*) FROM quality WHERE list_contains(flags, 'tiny')") == [(3,)]
    assert "dark" not in collection.counts()["flags"] and collection.counts()["read"] == 1


def test_several_fingerprints_have_one_table(collection: Collection) -> None:
    """In one pass, the first publishes it; in a run of its own, another one does."""
    collection.embed(fingerprints=("edges", "colours"))
    assert collection.images == DECODED
    assert collection.counts("edges")["measured"] == 5 and "measured" not in collection.counts("colours")
    before = collection.rows
    draw(collection.pictures / "new.png", 9)
    collection.embed(fingerprints=("colours",))
    assert [row for row in collection.rows if row[0] != "new.png"] == before
    assert collection.images == sorted([*DECODED, "new.png"])
    collection.embed(fingerprints=("edges",))
    assert collection.images == sorted([*DECODED, "new.png"])


def test_nothing_is_measured_when_it_is_turned_off(collection: Collection, capsys: Any) -> None:
    off = ("--set", "quality.enabled=false")
    collection.embed(*off)
    assert collection.rows == [] and "measured" not in collection.counts()
    assert "quality" not in json.loads((collection.warehouse / POINTER).read_text())["tables"]
    assert not list((collection.warehouse / "_state").rglob("*.parquet"))
    assert "quality" not in capsys.readouterr().out
    collection.embed()
    told = (
        "quality: none of 5 images has numbers: they were embedded before quality was measured; --set embeddings.rech"
    )
    assert told in capsys.readouterr().out
    draw(collection.pictures / "new.png", 9)
    collection.embed()
    assert collection.images == ["new.png"] and collection.counts()["not_measured"] == 5
    told = "quality: 5 images were embedded before quality was measured; --set embeddings.recheck=always reads them"
    assert told in capsys.readouterr().out
    before = collection.rows
    capsys.readouterr()
    collection.embed(*off)
    assert collection.rows == before, "the table stays as it is"
    assert "quality: not measured (quality.enabled); the published table stays as it is" in capsys.readouterr().out
    collection.embed("--set", "embeddings.recheck=always")
    assert collection.images == sorted([*DECODED, "new.png"])
    counts = collection.counts()
    assert (counts["embedded"], counts["vectors_added"], counts["not_measured"]) == (0, 0, 0)
    assert collection.ask("SELECT count(*), count(DISTINCT content_sha256) FROM vectors") == [(6, 6)]


def test_a_known_vector_whose_file_no_decoder_takes_any_more_is_no_failure(collection: Collection) -> None:
    collection.embed("--set", "quality.enabled=false")
    collection.embed("--set", "embeddings.recheck=always", "--set", "embeddings.max_pixels=1000")
    assert collection.rows == [] and collection.counts()["failures"] == {"not_an_image": 1}
    assert collection.counts()["not_measured"] == 5


def test_a_run_that_was_not_published_left_its_numbers(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it embedded is not read again, so what it measured must be there, too. A damaged file costs its own."""

    def killed(*_: Any, **__: Any) -> None:
        raise JobFailed("killed here")

    with monkeypatch.context() as patched:
        patched.setattr(embed_images, "_publish", killed)
        collection.embed(code=1)
    assert len(list((collection.warehouse / "_state/embed_images/quality").rglob("*.parquet"))) >= 1
    assert not list(collection.warehouse.glob("quality/*/*.parquet")), "what was not published is removed"
    collection.embed()
    assert collection.counts()["resumed"] == 5 and collection.images == DECODED
    assert not list((collection.warehouse / "_state").rglob("*.parquet"))


def test_a_damaged_checkpoint_of_measurements(
    collection: Collection, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    collection.embed()
    left = collection.warehouse / "_state/embed_images/quality/r20261120T000000-00000abc/saved"
    left.mkdir(parents=True)
    (left / "part-00000-1-00000.parquet").write_bytes(b"PAR1" + bytes(500))
    draw(collection.pictures / "new.png", 9)
    collection.embed()
    assert "1 damaged checkpoint, as" in capsys.readouterr().out
    assert collection.images == sorted([*DECODED, "new.png"]) and not left.exists()


def test_another_fingerprints_job_that_publishes_meanwhile_is_no_conflict(
    by_process: Collection, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    by_process.embed(fingerprints=("edges",))
    draw(by_process.pictures / "new.png", 9)
    write_record, published = Warehouse.write_record, list[Record]()

    def meanwhile(warehouse: Warehouse, record: Record) -> None:
        write_record(warehouse, record)  # the last step before the pointer is replaced
        if (record.job, record.slot) == ("embed_images", "colours"):
            published.append(record)
            if len(published) == 1:
                by_process.embed(fingerprints=("edges",))

    with monkeypatch.context() as patched:
        patched.setattr(Warehouse, "write_record", meanwhile)
        by_process.embed(fingerprints=("colours",))
    assert [QUALITY in record.replaced for record in published] == [True, False]
    assert "another job published quality meanwhile" in capsys.readouterr().out
    unpublished = by_process.warehouse / QUALITY / f"run_id={published[-1].run_id}"
    assert not unpublished.exists()
    assert by_process.images == sorted([*DECODED, "new.png"])
    by_process.embed(fingerprints=("colours",))
    assert by_process.images == sorted([*DECODED, "new.png"])
    assert not list((by_process.warehouse / "_state").rglob("*.parquet"))


def test_cleaning_and_restoring_keep_what_is_needed(run: Run, by_process: Collection, capsys: Any) -> None:
    """Runs of other fingerprints replace the table, and their own runs are current all the same."""
    by_process.embed(fingerprints=("colours",))
    [(first,)] = by_process.ask("SELECT run_id FROM runs WHERE job = 'embed_images'")
    before = by_process.rows
    draw(by_process.pictures / "new.png", 9)
    by_process.embed(fingerprints=("edges",))
    capsys.readouterr()
    w = ["--warehouse", by_process.warehouse]
    assert run(restore_runs, *w) == 0
    listed = [line for line in capsys.readouterr().out.splitlines() if "embed_images" in line]
    assert len(listed) == 2 and all(line.endswith("current") for line in listed)
    for _ in range(3):
        by_process.embed(fingerprints=("colours",))
    assert run(clean_warehouse, *w, "--keep-runs", 2) == 0
    assert by_process.images == sorted([*DECODED, "new.png"])
    assert not (by_process.warehouse / f"quality/run_id={first}").exists()
    assert by_process.rows[:4] == before[:4]
    earlier = by_process.ask("SELECT run_id FROM runs WHERE slot = 'colours' ORDER BY started_at DESC LIMIT 2")[1][0]
    draw(by_process.pictures / "newer.png", 10)
    by_process.embed(fingerprints=("colours",))
    assert run(restore_runs, *w, "--to", earlier) == 0
    assert by_process.images == sorted([*DECODED, "new.png"]), "as it was with that run"
    by_process.embed(fingerprints=("colours",))
    assert by_process.images == sorted([*DECODED, "new.png", "newer.png"]), "measured again, as it is read again"
