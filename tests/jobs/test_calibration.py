"""The limit of near-duplicates by whole jobs: calibrated on drawn pictures, confirmed by them, and kept."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from image_similarity.imaging.edits import EDITS, edited
from image_similarity.jobs import build_manifest, embed_images, find_neighbours, group_images
from image_similarity.warehouse.snapshot import open_snapshot
from processes import ask

COLOURS = ["--fingerprint", "colours", "--set", 'fingerprints.colours={kind="colour-histogram"}']
EASY = ("half the size", "JPEG of quality 30 to 90", "mirrored", "a caption")
STRANGERS = 90


def drawn(seed: int, side: int = 160) -> Image.Image:
    """Blurred blocks of a few colours."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((side, side), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Strangers; two copies of each of ten; and two with the same colours in another order."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(STRANGERS):
        drawn(seed).save(folder / f"{seed:02d}.png")
    for seed in range(10):
        for number, kind in enumerate(EASY[seed % 2 :: 2]):
            edited(drawn(seed), kind, 1).save(folder / f"{seed:02d}-copy-{number}.png")
    tiles = np.asarray(drawn(50)).reshape(4, 40, 4, 40, 3).swapaxes(1, 2).reshape(16, 40, 40, 3)
    tiles = tiles[np.random.default_rng(0).permutation(16)].reshape(4, 4, 40, 40, 3).swapaxes(1, 2)
    Image.fromarray(np.ascontiguousarray(tiles.reshape(160, 160, 3))).save(folder / "50-shuffled.png")
    return folder


@pytest.fixture
def warehouse(run: Any, pictures: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "w"
    assert run(build_manifest, "--images", pictures, "--warehouse", folder) == 0
    assert run(embed_images, "--warehouse", folder, *COLOURS) == 0
    assert run(find_neighbours, "--warehouse", folder, *COLOURS, "--dissimilar", 0) == 0
    return folder


def settings(warehouse: Path) -> Any:
    return list(open_snapshot(str(warehouse)).runs.values())[-1].settings


def counts(warehouse: Path) -> Any:
    return list(open_snapshot(str(warehouse)).runs.values())[-1].counts


def groups(warehouse: Path) -> list[list[str]]:
    query = "SELECT list(image_id ORDER BY image_id) FROM groups WHERE kind = 'near-duplicates' GROUP BY group_id"
    return sorted(row[0] for row in ask(warehouse, query))


def test_copies_are_found_and_the_same_colours_are_refuted(run: Any, warehouse: Path, capsys: Any) -> None:
    assert run(group_images, "--warehouse", warehouse, *COLOURS) == 0
    told = capsys.readouterr().out
    assert groups(warehouse) == [
        [f"{seed:02d}-copy-0.png", f"{seed:02d}-copy-1.png", f"{seed:02d}.png"] for seed in range(10)
    ]
    assert counts(warehouse)["refuted_by_pictures"] >= 1  # 50 and its colours in another order: distance 0
    used = settings(warehouse)
    assert used["limit"]["source"] == "calibrated" and 0.3 <= used["limit"]["scaled"] <= 0.84
    recall = used["calibration"]["recall"]
    assert set(recall) == set(EDITS) and sum(made for _, made in recall.values()) == 12
    assert recall["mirrored"] == [1, 1] and recall["half the size"] == [1, 1]
    assert recall["grey"] == [0, 1]  # another colour for a histogram
    assert "grey 0/1" in told and "12 copies of 12 images" in told


def test_the_limit_is_kept_until_it_is_asked_for_anew(run: Any, warehouse: Path, capsys: Any) -> None:
    assert run(group_images, "--warehouse", warehouse, *COLOURS) == 0
    first, found = settings(warehouse), groups(warehouse)
    capsys.readouterr()
    assert run(group_images, "--warehouse", warehouse, *COLOURS) == 0
    told = capsys.readouterr().out
    assert "as in run" in told and "copies of" not in told
    assert settings(warehouse)["limit"] == first["limit"]
    assert settings(warehouse)["calibration"] == first["calibration"]
    assert groups(warehouse) == found and counts(warehouse)["components_worked_on"] == 0
    assert run(group_images, "--warehouse", warehouse, *COLOURS, "--recalibrate") == 0
    assert "12 copies of 12 images" in capsys.readouterr().out
    assert settings(warehouse)["limit"] == first["limit"]


def test_without_thumbprints_the_vectors_decide_and_it_is_said(run: Any, warehouse: Path, capsys: Any) -> None:
    for file in warehouse.glob("vectors/*/*.parquet"):  # as an earlier version wrote them
        pq.write_table(pq.read_table(file).drop_columns(["thumbprint"]), file)
    capsys.readouterr()
    assert run(group_images, "--warehouse", warehouse, *COLOURS) == 0
    told = "".join(capsys.readouterr())
    assert "kept no thumbprints" in told and "not calibrated, since most images have no thumbprints" in told
    assert settings(warehouse)["limit"]["scaled"] == 0.65 and "calibration" not in settings(warehouse)
    assert counts(warehouse)["without_pictures"] > 0
    assert ["50-shuffled.png", "50.png"] in groups(warehouse)


def test_pictures_that_are_gone_leave_the_limit_calibrated(
    run: Any, warehouse: Path, pictures: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_similarity.jobs.calibration_copies import Copies

    monkeypatch.setattr(Copies, "_uris", lambda self, ids: [f"{pictures}/gone-{id_}" for id_ in ids.to_pylist()])
    assert run(group_images, "--warehouse", warehouse, *COLOURS) == 0
    assert "no copy could be made" in "".join(capsys.readouterr())
    assert settings(warehouse)["limit"]["source"] == "calibrated" and settings(warehouse)["calibration"]["recall"] == {}


def test_copies_are_embedded_as_the_collection_was_whatever_settings_say_now(
    run: Any, warehouse: Path, capsys: Any
) -> None:
    other = ["--fingerprint", "colours", "--set", 'fingerprints.colours={kind="colour-histogram",space="lab"}']
    for named in (other, []):  # declared in another way; not declared, and the only one
        assert run(group_images, "--warehouse", warehouse, *named, "--recalibrate") == 0
        assert "not measured" not in (told := "".join(capsys.readouterr()))
        assert ("fingerprint colours: no other is published" in told) == (not named)
        assert settings(warehouse)["calibration"]["recall"]


def test_full_lists_of_two_families_are_not_joined_without_their_pictures(run: Any, tmp_path: Path) -> None:
    """Two pictures of the same colours, with more copies each than the table has ranks."""
    folder = tmp_path / "families"
    folder.mkdir()
    for seed in range(60):
        drawn(seed).save(folder / f"s{seed:02d}.png")
    tiles = np.asarray(drawn(99)).reshape(4, 40, 4, 40, 3).swapaxes(1, 2).reshape(16, 40, 40, 3)
    other = tiles[np.random.default_rng(0).permutation(16)].reshape(4, 4, 40, 40, 3).swapaxes(1, 2)
    for name, pixels in (("x", np.asarray(drawn(99))), ("y", np.ascontiguousarray(other.reshape(160, 160, 3)))):
        for number in range(16):
            copy = pixels.copy()
            copy[number, 0] = 255 - copy[number, 0]
            Image.fromarray(copy).save(folder / f"{name}{number:02d}.png")
    warehouse = tmp_path / "w"
    for job, *more in ((build_manifest, "--images", folder), (embed_images, *COLOURS), (find_neighbours, *COLOURS)):
        assert run(job, "--warehouse", warehouse, *more) == 0
    assert run(group_images, "--warehouse", warehouse, *COLOURS) == 0
    assert groups(warehouse) == [[f"{name}{number:02d}.png" for number in range(16)] for name in "xy"]


def test_copies_beyond_the_wider_limit_are_grouped_and_no_group_has_one_image(run: Any, tmp_path: Path) -> None:
    folder = tmp_path / "pale"
    folder.mkdir()
    for seed in range(80):
        drawn(seed).save(folder / f"{seed:02d}.png")
    for seed in range(20):  # other colours for a histogram
        Image.blend(drawn(seed), Image.new("RGB", (160, 160), "white"), 0.12).save(folder / f"{seed:02d}-pale.png")
    warehouse = tmp_path / "w"
    for job, *more in ((build_manifest, "--images", folder), (embed_images, *COLOURS), (find_neighbours, *COLOURS)):
        assert run(job, "--warehouse", warehouse, *more) == 0
    assert run(group_images, "--warehouse", warehouse, *COLOURS, "--limit", 0.3) == 0
    listed = "SELECT count(*) FROM neighbours WHERE image_id LIKE '%-pale.png' AND relation = 'similar' AND "
    ((pairs,),) = ask(warehouse, listed + "neighbour_id = replace(image_id, '-pale', '')")
    assert all(len(group) == 2 for group in groups(warehouse)) and len(groups(warehouse)) >= pairs > 0


def test_weights_that_are_gone_cost_no_groups(run: Any, warehouse: Path, capsys: Any, monkeypatch: Any) -> None:
    from image_similarity.errors import JobFailed
    from image_similarity.stages.embeddings import published

    def gone(*arguments: Any) -> None:
        raise JobFailed("weights: no such file")

    monkeypatch.setattr(published, "prepare_published", gone)
    assert run(group_images, "--warehouse", warehouse, *COLOURS) == 0
    assert "not measured: weights: no such file" in "".join(capsys.readouterr())
    assert len(groups(warehouse)) == 10
