"""embed_images: several fingerprints in one pass, projections, failures tried again, and hostile files."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import misbehaving
from image_similarity.jobs import build_manifest, embed_images, find_neighbours, run_pipeline
from image_similarity.runtime.devices import Devices
from image_similarity.stages.embeddings import stage
from image_similarity.stages.gallery.words import FACTS
from processes import ask

Run = Any
ROOT = Path(__file__).resolve().parents[2]
CLASSICAL = ["--set", 'fingerprints.colours={kind="colour-histogram"}']
CLASSICAL += ["--set", 'fingerprints.edges={kind="hog",size=32,cell=8}']
PCA = ["--set", 'fingerprints.few={kind="pca",base="colours",dimensions=4}']


def counts(warehouse: Path, fingerprint: str) -> dict[str, Any]:
    sql = f"SELECT counts FROM runs WHERE job = 'embed_images' AND slot = '{fingerprint}' "
    sql += "ORDER BY started_at DESC LIMIT 1"
    told: dict[str, Any] = json.loads(ask(warehouse, sql)[0][0])
    return told


def octet_lengths(warehouse: Path) -> set[int | None]:
    """Of all thumbprints. No file keeps them in a dictionary, which would hold each once more."""
    for file in (warehouse / "vectors").rglob("*.parquet"):
        group = pq.read_metadata(file).row_group(0)
        [column] = [c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == "thumbprint"]
        assert not column.has_dictionary_page
    return {length for (length,) in ask(warehouse, "SELECT DISTINCT octet_length(thumbprint) FROM embeddings")}


def draw(file: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize((80, 60), Image.Resampling.BICUBIC).save(file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(12):
        draw(tmp_path / "pictures" / f"{seed}.png", seed)
    (tmp_path / "pictures" / "broken.png").write_bytes(b"no picture")
    return tmp_path / "pictures"


def test_several_fingerprints_in_one_job(run: Run, folder: Path, tmp_path: Path, tiny: list[str], capsys: Any) -> None:
    w = tmp_path / "w"
    again = ["--warehouse", w, *tiny, *CLASSICAL, "--set", "embeddings.max_failed_fraction=0.5"]
    assert run(build_manifest, "--images", folder, *again) == 0
    assert run(embed_images, *again, "--fingerprint", "tiny", "--fingerprint", "colours") == 0
    assert "embed tiny, colours: 13 images" in capsys.readouterr().err, "one pass"
    assert run(embed_images, *again, "--fingerprint", "edges", "--fingerprint", "colours") == 0
    assert (counts(w, "edges")["read"], counts(w, "edges")["embedded"]) == (13, 12)
    assert (counts(w, "colours")["read"], counts(w, "colours")["not_read_again"]) == (0, 13)
    lengths = ask(w, "SELECT fingerprint, len(embedding), count(*) FROM embeddings GROUP BY ALL ORDER BY 1")
    assert lengths == [("colours", 256, 12), ("edges", 324, 12), ("tiny", 128, 12)]
    failed = ask(w, "SELECT fingerprint, image_id, reason FROM failures ORDER BY 1")
    assert failed == [(name, "broken.png", "not_an_image") for name in ("colours", "edges", "tiny")]
    draw(folder / "0.png", 99)
    assert run(build_manifest, "--images", folder, *again) == 0
    assert run(embed_images, *again, "--fingerprint", "colours", "--fingerprint", "tiny") == 0
    assert [counts(w, name)["embedded"] for name in ("colours", "tiny")] == [1, 1]
    assert counts(w, "edges")["devices"] == {"cpu": 12} and counts(w, "tiny")["devices"] == {"cpu": 1}
    assert not list((w / "_state" / "embed_images").glob("*/*")), "nothing is left of what is in the store"


def test_this_process_and_spark_write_the_same_tables(
    run: Run, folder: Path, tmp_path: Path, tiny: list[str], capsys: Any
) -> None:
    """At first, when nothing has changed, and when some images are new, changed, copies, or gone."""
    draw(folder / "copy.png", 3)
    names = [part for name in ("tiny", "colours") for part in ("--fingerprint", name)]
    options = [*tiny, *CLASSICAL, "--set", "embeddings.max_failed_fraction=0.5", *names]
    for change in range(3):
        if change == 2:
            draw(folder / "0.png", 99)
            draw(folder / "new.png", 100)
            draw(folder / "another.png", 5)
            (folder / "1.png").unlink()
        found = []
        for runner in ("process", "spark"):
            w = tmp_path / runner
            run_as = ["--warehouse", w, "--set", f"embeddings.runner={runner}", "--set", f"manifest.runner={runner}"]
            assert run(build_manifest, "--images", folder, *run_as) == 0
            assert run(embed_images, *run_as, *options) == 0
            tables = [ask(w, f"SELECT * FROM {t} ORDER BY ALL") for t in ("manifest", "failures", "quality")]
            tables.append(ask(w, "SELECT * FROM embeddings ORDER BY fingerprint, image_id"))
            found.append(([counts(w, name) for name in ("tiny", "colours")], *tables))
        assert found[0] == found[1]
        assert found[0][0][0]["embedded"] == (12, 0, 2)[change]
        assert all(octet_lengths(tmp_path / runner) == {1024} for runner in ("process", "spark"))


@pytest.mark.parametrize(("runner", "is_older"), [("process", False), ("spark", False), ("spark", True)])
def test_what_a_failed_run_left_serves_images_of_other_names(
    run: Run, tmp_path: Path, runner: str, is_older: bool
) -> None:
    """Their contents are known, and nothing new is embedded: their vectors must come into the store all the same.
    Checkpoints of an older version, too, which have no thumbprints.
    """
    w, images = tmp_path / "w", tmp_path / "images"
    images.mkdir()
    for number in range(3):
        draw(images / f"{number}.png", number)
        (images / f"broken-{number}.png").write_bytes(b"no picture")
    again = ["--warehouse", w, *CLASSICAL, "--fingerprint", "colours", "--set", f"embeddings.runner={runner}"]
    assert run(build_manifest, "--warehouse", w, "--images", images) == 0 and run(embed_images, *again) == 3
    if is_older:
        for file in (w / "_state").rglob("part-*.parquet"):
            if "thumbprint" in pq.read_schema(file).names:  # others are measurements
                pq.write_table(pq.read_table(file).drop_columns("thumbprint"), file)
    others = tmp_path / "others"
    others.mkdir()
    for number in range(3):
        shutil.copy(images / f"{number}.png", others / f"renamed-{number}.png")
    assert run(build_manifest, "--warehouse", w, "--images", others) == 0 and run(embed_images, *again) == 0
    assert counts(w, "colours")["embedded"] == 0
    sql = "SELECT count(*), count(embedding), count(thumbprint) FROM embeddings"
    assert ask(w, sql) == [(3, 3, 0 if is_older else 3)]


def test_a_damaged_checkpoint_costs_its_images_only(run: Run, folder: Path, tmp_path: Path, capsys: Any) -> None:
    """A machine lost its power while it wrote: no later run must fail of what is left of the file."""
    w = tmp_path / "w"
    again = ["--warehouse", w, *CLASSICAL, "--fingerprint", "colours", "--set", "embeddings.max_failed_fraction=0.5"]
    pipeline = ["--warehouse", w, "--images", folder]
    assert run(build_manifest, *pipeline) == 0 and run(embed_images, *again) == 0
    (key,) = ask(w, "SELECT DISTINCT fingerprint_key FROM embeddings")[0]
    left = w / "_state" / "embed_images" / key / "r20261120T000000-00000abc" / "saved"
    left.mkdir(parents=True)
    (left / "part-00000-1-00000.parquet").write_bytes(b"PAR1" + bytes(500))
    (left / "part-00000-1-00001.parquet").touch()
    draw(folder / "new.png", 99)
    assert run(build_manifest, *pipeline) == 0 and run(embed_images, *again) == 0
    assert "2 damaged checkpoints, as" in capsys.readouterr().out
    assert ask(w, "SELECT count(*), count(embedding) FROM embeddings") == [(13, 13)] and not left.exists()


def test_no_more_tasks_than_gpus_may_have(
    run: Run, folder: Path, tmp_path: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In local mode, and for networks alone; the share done is then that of vectors that are saved."""
    monkeypatch.setattr(Devices, "most_tasks", lambda _: 1)
    seen: list[tuple[int, float | None]] = []

    @contextmanager
    def watched(*of_what: Any, share: Any = None, **_: Any) -> Iterator[None]:
        yield
        count, tasks = of_what[2], of_what[4]
        seen.append((tasks, share and round(share() * count)))

    monkeypatch.setattr(stage, "progress", watched)
    arguments = ["--warehouse", tmp_path / "w", *tiny, *CLASSICAL, "--set", "embeddings.max_failed_fraction=0.5"]
    arguments += ["--set", "embeddings.images_per_task=4", "--set", "embeddings.runner=spark"]
    assert run(build_manifest, "--images", folder, *arguments) == 0
    for name in ("tiny", "colours"):
        assert run(embed_images, *arguments, "--fingerprint", name) == 0
    assert seen == [(1, 12), (4, None)]


def test_a_gpu_that_is_asked_for_and_absent_is_told_before_any_work(
    run: Run, folder: Path, tmp_path: Path, tiny: list[str], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = ["--warehouse", tmp_path / "w", *tiny, *CLASSICAL, "--set", "embeddings.device=cuda"]
    asked += ["--set", "embeddings.max_failed_fraction=0.5"]
    assert run(run_pipeline, "--images", folder, *asked) == 1
    assert not (tmp_path / "w").exists()
    assert "run_pipeline: error: embeddings.device is cuda, and torch finds no GPU" in capsys.readouterr().err
    assert run(build_manifest, "--images", folder, *asked) == 0
    assert run(embed_images, *asked, "--fingerprint", "colours") == 0, "what is no network does not ask"
    assert run(embed_images, *asked, "--set", "embeddings.device_fallback=cpu") == 0
    assert "computed on: cpu (12)" in capsys.readouterr().out


def test_vectors_do_not_depend_on_the_company(run: Run, folder: Path, tmp_path: Path, tiny: list[str]) -> None:
    """A fingerprint alone and beside others that want the picture in another size: the same vectors, bit for bit."""
    whole = ["--set", 'fingerprints.whole={kind="colour-histogram",decoding="full"}']
    big = folder / "big.jpg"
    Image.fromarray(np.random.default_rng(5).integers(0, 256, (60, 70, 3), dtype=np.uint8)).resize((1400, 1300)).save(
        big
    )
    found = []
    for name, asked in (("alone", ["colours"]), ("both", ["whole", "edges", "colours"])):
        again = [
            "--warehouse",
            tmp_path / name,
            *tiny,
            *CLASSICAL,
            *whole,
            "--set",
            "embeddings.max_failed_fraction=0.5",
        ]
        assert run(build_manifest, "--images", folder, *again) == 0
        assert (
            run(embed_images, *again, *[part for fingerprint in asked for part in ("--fingerprint", fingerprint)]) == 0
        )
        columns = "image_id, width, height, embedding, thumbprint"
        sql = f"SELECT {columns} FROM embeddings WHERE fingerprint = 'colours' ORDER BY 1"
        found.append(ask(tmp_path / name, sql))
    assert found[0] == found[1] and ("big.jpg", 1400, 1300) in [row[:3] for row in found[0]]
    scaled, full = (
        ask(
            tmp_path / "both", f"SELECT embedding FROM embeddings WHERE image_id = 'big.jpg' AND fingerprint = '{name}'"
        )
        for name in ("colours", "whole")
    )
    assert scaled != full, "its scaled decoding is another"


def test_a_projection_is_fitted_once_and_kept(
    run: Run, folder: Path, tmp_path: Path, tiny: list[str], capsys: Any
) -> None:
    w = tmp_path / "w"
    again = ["--warehouse", w, *tiny, *CLASSICAL, *PCA, "--set", "embeddings.max_failed_fraction=0.5"]
    assert run(build_manifest, "--images", folder, *again) == 0
    assert run(embed_images, *again, "--fingerprint", "few") == 0
    assert "4 components hold" in capsys.readouterr().out
    components = ask(w, "SELECT component, explained_variance, weights FROM projections ORDER BY 1")
    assert [row[0] for row in components] == [-1, 0, 1, 2, 3] and all(len(row[2]) == 256 for row in components)
    assert 0 < sum(row[1] for row in components[1:]) <= 1
    base, projected = (
        ask(w, f"SELECT image_id, embedding FROM embeddings WHERE fingerprint = '{name}' ORDER BY 1")
        for name in ("colours", "few")
    )
    mean, weights = np.array(components[0][2]), np.array([row[2] for row in components[1:]])
    expected = (np.array([vector for _, vector in base]) - mean) @ weights.T
    np.testing.assert_allclose(np.array([vector for _, vector in projected]), expected, atol=1e-5)
    prints = ask(w, "SELECT count(*), count(DISTINCT thumbprint) FROM embeddings GROUP BY image_id")
    assert prints == [(2, 1)] * 12, "the projected vectors have those of their base"
    of_key = "SELECT fingerprint_key, count(*) FROM embeddings WHERE fingerprint = 'few' GROUP BY 1"
    key = ask(w, of_key)[0][0]
    draw(folder / "new.png", 50)
    assert run(build_manifest, "--images", folder, *again) == 0
    assert run(embed_images, *again, "--fingerprint", "few") == 0
    assert ask(w, "SELECT component, explained_variance, weights FROM projections ORDER BY 1") == components
    assert ask(w, of_key) == [(key, 13)]
    assert counts(w, "few")["vectors_added"] == 1
    assert {name.replace("_", " ") for name in counts(w, "few")} <= set(FACTS), "the gallery explains them"
    assert run(find_neighbours, *again, "--fingerprint", "few", "-k", 3, "--dissimilar", 0) == 0
    assert ask(w, "SELECT count(*) FROM neighbours WHERE fingerprint = 'few'") == [(39,)]
    again += ["--fingerprint", "few"]
    assert run(embed_images, *again, "--set", "fingerprints.few.dimensions=3") == 2
    assert "dimensions was 4, is 3 now" in capsys.readouterr().err
    assert run(embed_images, *again, "--set", "fingerprints.few.dimensions=14", "--replace-fingerprint") == 2
    assert "dimensions is 14, but colours has 13 vectors of 256 values" in capsys.readouterr().err


def test_a_projection_of_untrained_vectors_says_so(run: Run, folder: Path, tmp_path: Path, tiny: list[str]) -> None:
    again = ["--warehouse", tmp_path / "w", *tiny, "--set", "embeddings.max_failed_fraction=0.5"]
    again += ["--set", 'fingerprints.few={kind="pca",base="tiny",dimensions=4}']
    assert run(build_manifest, "--images", folder, *again) == 0
    assert run(embed_images, *again, "--fingerprint", "few") == 0
    recorded = ask(tmp_path / "w", "SELECT settings FROM runs WHERE slot = 'few'")
    assert json.loads(recorded[0][0])["trained"] is False


def test_failures_are_tried_again_when_asked_or_when_they_may_pass(
    run: Run, folder: Path, tmp_path: Path, tiny: list[str], capsys: Any
) -> None:
    w, listed = tmp_path / "w", tmp_path / "list.csv"
    listed.write_text("uri\n" + "\n".join(f"pictures/{name}" for name in ("0.png", "broken.png", "gone.png")) + "\n")
    again = ["--warehouse", w, *tiny, "--set", "embeddings.max_failed_fraction=1"]
    assert run(build_manifest, "--images", listed, *again) == 0
    for arguments, read in [
        ([], 3),
        ([], 1),  # gone.png may be there now; broken.png is the same file
        (["--retry-failed", "truncated"], 1),
        (["--retry-failed", "not_an_image"], 2),
        (["--retry-failed"], 2),
        (["--set", "embeddings.recheck=always"], 3),
    ]:
        assert run(embed_images, *again, *arguments) == 0
        assert counts(w, "tiny")["read"] == read, arguments
        assert counts(w, "tiny")["failures"] == {"not_an_image": 1, "not_found": 1}
    assert run(embed_images, *again, "--retry-failed", "bad_mood") == 2
    assert "'bad_mood' is no choice: choose from every, not_found" in capsys.readouterr().err


def test_pictures_behind_addresses_are_fetched_when_their_version_is_new(
    run: Run, tmp_path: Path, tiny: list[str]
) -> None:
    """The second night only the one is fetched whose server tells no version."""
    paths = ["/versioned.png", "/dated.png", "/good.jpg"]
    with misbehaving.serving() as server:
        (tmp_path / "list.csv").write_text("uri\n" + "\n".join(server.address + path for path in paths) + "\n")
        again = ["--warehouse", tmp_path / "w", *tiny, "--set", "http.private_addresses=true"]
        for expected in ([1, 1, 1], [1, 1, 2]):
            assert run(build_manifest, "--images", tmp_path / "list.csv", *again) == 0
            assert run(embed_images, *again) == 0
            assert [server.gets(path) for path in paths] == expected
    assert ask(tmp_path / "w", "SELECT count(*), count(DISTINCT image_id) FROM embeddings") == [(3, 3)]


def test_fingerprints_declared_alike_are_refused(
    run: Run, folder: Path, tmp_path: Path, tiny: list[str], capsys: Any
) -> None:
    again = [
        "--warehouse",
        tmp_path / "w",
        *tiny,
        *CLASSICAL,
        "--set",
        'fingerprints.twin={kind="colour-histogram"}',
    ]
    assert run(build_manifest, "--images", folder, *again) == 0
    assert run(embed_images, *again, "--fingerprint", "colours", "--fingerprint", "twin") == 2
    assert "fingerprints colours and twin are declared alike" in capsys.readouterr().err


@pytest.mark.parametrize("runner", ["process", "spark"])
def test_a_file_that_kills_its_worker_costs_one_row(run: Any, folder: Path, tmp_path: Path, runner: str) -> None:
    """In a job of its own, whose workers start with a Pillow that aborts, hangs, or eats memory."""
    (folder / "abort.png").write_bytes(b"ABORT, says this file")
    (folder / "hang.png").write_bytes(b"HANG, says this one")
    path = os.pathsep.join([str(ROOT / "tests" / "aborting"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    # Without a network: a worker that takes the place of one that died would import torch again.
    again = ["--warehouse", str(tmp_path / "w"), *CLASSICAL, "--set", "embeddings.max_failed_fraction=0.5"]
    again += ["--set", "embeddings.decode_seconds=2", "--set", f"embeddings.runner={runner}"]
    assert run(build_manifest, *again, "--images", folder) == 0
    command = [sys.executable, str(ROOT / "jobs" / "embed_images.py"), *again, "--fingerprint", "colours"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    failures = dict(ask(tmp_path / "w", "SELECT image_id, reason FROM failures"))
    assert failures == {"abort.png": "decoder_crashed", "hang.png": "decoder_crashed", "broken.png": "not_an_image"}
    assert ask(tmp_path / "w", "SELECT count(*) FROM embeddings") == [(12,)]
