"""The jobs as functions, in one shared session: what they publish, what a second run does, and what bad input gets."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from image_similarity.jobs import build_manifest, embed_images, find_neighbours, run_pipeline
from processes import ask, name_of

Run = Any


def draw(file: Path, seed: int) -> None:
    """A small picture of its own."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize((80, 60), Image.Resampling.BICUBIC).save(file)


NAMES = [
    "plain.png",
    "two words.PNG",
    "100%25 #1?.png",
    'it\'s "q".png',
    "new\nline.png",
    "Übung/日本.png",
    "b[1]*.png",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven pictures with names of every kind, a copy of the first, and one that is none."""
    root = tmp_path / "pictures"
    for seed, name in enumerate(NAMES):
        draw(root / name, seed)
    shutil.copy(root / "plain.png", root / "copy.png")
    (root / "broken.png").write_bytes((root / "plain.png").read_bytes()[:100])
    return root


LENIENT = ["--set", "embeddings.max_failed_fraction=0.5"]


def test_from_a_folder_to_neighbours(run: Run, folder: Path, tmp_path: Path, tiny: list[str], capsys: Any) -> None:
    warehouse = tmp_path / "w"
    assert (
        run(run_pipeline, "--images", folder, "--warehouse", warehouse, "-k", 3, "--dissimilar", 20, *tiny, *LENIENT)
        == 0
    )
    usable = {*NAMES, "copy.png"}
    assert {row[0] for row in ask(warehouse, "SELECT image_id FROM manifest")} == usable | {"broken.png"}
    assert {row[0] for row in ask(warehouse, "SELECT image_id FROM embeddings WHERE len(embedding) = 128")} == usable
    assert ask(warehouse, "SELECT image_id, fingerprint, reason FROM failures") == [("broken.png", "tiny", "truncated")]
    assert ask(warehouse, "SELECT count(*) FROM vectors") == [(7,)]
    assert ask(warehouse, "SELECT image_id, copies FROM exact_duplicates ORDER BY 1") == [
        ("copy.png", 2),
        ("plain.png", 2),
    ]
    counted = ask(
        warehouse,
        "SELECT relation, count(*), min(n), max(n) FROM (SELECT image_id, relation, count(*) AS n FROM neighbours "
        "GROUP BY ALL) "
        "GROUP BY 1 ORDER BY 1",
    )
    assert counted == [("dissimilar", 8, 7, 7), ("similar", 8, 3, 3)]
    nearest = ask(
        warehouse,
        "SELECT neighbour_id, distance FROM neighbours WHERE image_id = 'copy.png' AND relation = 'similar' AND "
        "rank = 1",
    )
    assert nearest == [("plain.png", 0.0)]
    runs = ask(warehouse, "SELECT job, slot, status FROM runs ORDER BY started_at")
    assert runs == [
        ("build_manifest", "", "published"),
        ("embed_images", "tiny", "published"),
        ("find_neighbours", "tiny/cosine", "published"),
        ("group_images", "tiny/cosine/near-duplicates", "published"),
        ("group_images", "tiny/cosine/similar", "published"),
    ]
    used = json.loads(ask(warehouse, "SELECT settings FROM runs WHERE job = 'embed_images'")[0][0])
    assert used["weights"] == "untrained (seed 0)" and used["trained"] is False
    told = capsys.readouterr().out
    assert ask(warehouse, "SELECT image_id FROM groups WHERE kind = 'identical' ORDER BY position") == [
        ("copy.png",),
        ("plain.png",),
    ]
    assert f"warehouse: {warehouse}" in told and "1 truncated" in told and "weights: untrained (seed 0)" in told
    assert re.search(r"^ *quality +8 images measured: ", told, re.MULTILINE), "in the summary, too"
    assert "new\\nline.png" in told and "new\nline.png" not in told, "names cannot break lines"


def test_the_example_query_works_when_pasted(
    run: Run, folder: Path, tmp_path: Path, tiny: list[str], capsys: Any
) -> None:
    import subprocess

    warehouse = tmp_path / 'w it\'s "odd"'
    assert run(run_pipeline, "--images", folder, "--warehouse", warehouse, *tiny, *LENIENT) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("query: "))
    shown = subprocess.run(["bash", "-c", line.removeprefix("query: ")], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert "copy.png" in shown.stdout and "distance" in shown.stdout


def counts_of_last(warehouse: Path, job: str = "embed_images") -> dict[str, Any]:
    found = ask(warehouse, f"SELECT counts FROM runs WHERE job = '{job}' ORDER BY started_at DESC LIMIT 1")
    counts: dict[str, Any] = json.loads(found[0][0])
    return counts


def test_only_what_is_new_is_embedded(run: Run, folder: Path, tmp_path: Path, tiny: list[str]) -> None:
    warehouse = tmp_path / "w"
    again = ["--warehouse", warehouse, *tiny, *LENIENT]

    def night() -> dict[str, Any]:
        assert run(build_manifest, "--images", folder, *again) == 0
        assert run(embed_images, *again) == 0
        return counts_of_last(warehouse)

    assert night()["embedded"] == 7
    first = ask(warehouse, "SELECT image_id, content_sha256 FROM embeddings ORDER BY 1")
    second = night()
    assert (second["embedded"], second["not_read_again"], second["read"], second["vectors_added"]) == (0, 9, 0, 0)
    assert ask(warehouse, "SELECT image_id, content_sha256 FROM embeddings ORDER BY 1") == first
    (folder / "plain.png").touch()  # read again, but its content is known
    draw(folder / "new.png", 50)
    draw(folder / "two words.PNG", 51)  # another picture under the same name
    (folder / 'it\'s "q".png').unlink()
    (folder / "moved.png").write_bytes((folder / "b[1]*.png").read_bytes())
    third = night()
    assert (third["embedded"], third["not_read_again"], third["vectors_added"]) == (2, 6, 2)
    ids = {row[0] for row in ask(warehouse, "SELECT image_id FROM embeddings")}
    assert 'it\'s "q".png' not in ids and {"new.png", "moved.png"} <= ids and len(ids) == 9
    assert run(embed_images, *again, "--set", "embeddings.recheck=always") == 0
    fourth = counts_of_last(warehouse)
    assert (fourth["embedded"], fourth["not_read_again"]) == (0, 0)


def test_a_label_is_published_once(run: Run, folder: Path, tmp_path: Path, tiny: list[str], capsys: Any) -> None:
    arguments = ["--images", folder, "--warehouse", tmp_path / "w", "--run-id", "night 1", *tiny, *LENIENT]
    assert run(run_pipeline, *arguments) == 0
    pointer = (tmp_path / "w" / "_current.json").read_bytes()
    capsys.readouterr()
    assert run(run_pipeline, *arguments) == 0
    assert capsys.readouterr().out.count("already published under the label 'night 1'") == 5
    assert (tmp_path / "w" / "_current.json").read_bytes() == pointer
    arguments[arguments.index("night 1")] = "night 2"
    assert run(run_pipeline, *arguments) == 0
    assert (tmp_path / "w" / "_current.json").read_bytes() != pointer


def test_another_way_of_making_vectors_is_not_mixed_in(
    run: Run, folder: Path, tmp_path: Path, tiny: list[str], capsys: Any
) -> None:
    warehouse = ["--warehouse", tmp_path / "w", *tiny, *LENIENT]
    assert run(run_pipeline, "--images", folder, *warehouse) == 0
    assert run(embed_images, *warehouse, "--set", "fingerprints.tiny.seed=1") == 2
    assert "were made in another way: seed was 0, is 1 now" in capsys.readouterr().err
    assert run(embed_images, *warehouse, "--set", "fingerprints.tiny.seed=1", "--replace-fingerprint") == 0
    assert ask(tmp_path / "w", "SELECT count(DISTINCT fingerprint_key), count(*) FROM embeddings") == [(1, 8)]


def test_dry_runs_change_nothing(run: Run, folder: Path, tmp_path: Path, tiny: list[str], capsys: Any) -> None:
    for job in (build_manifest, run_pipeline):
        assert run(job, "--images", folder, "--warehouse", tmp_path / "w", "--dry-run", *tiny) == 0
        assert str(folder) in capsys.readouterr().out
    assert not (tmp_path / "w").exists()


def test_too_many_failures_publish_nothing(
    run: Run, folder: Path, tmp_path: Path, tiny: list[str], capsys: Any
) -> None:
    arguments = ["--warehouse", tmp_path / "w", *tiny]
    assert run(run_pipeline, "--images", folder, *arguments) == 3
    told = capsys.readouterr().err
    assert "1 of 9 images failed (1 truncated)" in told and "max_failed_fraction = 0.05" in told
    assert (
        "allows (--set embeddings.max_failed_fraction=0.12 lets such a run pass); embed_images published nothing"
        in told
    )
    listed, *examples = told.split("is a row in ")[1].splitlines()
    assert examples == [f"  failed: 1 truncated, for example {folder / 'broken.png'}"]
    assert pq.read_table(listed).column("image_id").to_pylist() == ["broken.png"]
    assert "embeddings" not in json.loads((tmp_path / "w" / "_current.json").read_text())["tables"]


def test_files_that_cannot_be_had(run: Run, tmp_path: Path, tiny: list[str]) -> None:
    draw(tmp_path / "good.png", 1)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "empty.png").touch()
    (tmp_path / "large.png").write_bytes(b"0" * 100_000)
    names = ["good.png", "gone.png", "folder.png", "empty.png", "large.png", "http://localhost/a.png"]
    (tmp_path / "list.csv").write_text("uri\n" + "\n".join(names) + "\n")
    arguments = ["--warehouse", tmp_path / "w", *tiny, "--set", "embeddings.max_failed_fraction=1"]
    assert run(run_pipeline, "--images", tmp_path / "list.csv", *arguments, "--set", "embeddings.max_bytes=90000") == 0
    failures = dict(ask(tmp_path / "w", "SELECT image_id, reason FROM failures"))
    assert failures == {
        "gone.png": "not_found",
        "folder.png": "io_error",
        "empty.png": "empty",
        "large.png": "too_many_bytes",
        "http://localhost/a.png": "private_address",
    }
    assert ask(tmp_path / "w", "SELECT count(*) FROM neighbours") == [(0,)], "one image has no others"


BAD = {
    "no such folder": (build_manifest, ["--images", "/no/such/folder"], 2, "no such folder or file"),
    "unknown setting": (
        build_manifest,
        ["--images", ".", "--set", "neighbours.simlar=1"],
        2,
        "mean neighbours.similar",
    ),
    "no manifest": (embed_images, [], 2, "no such folder"),
    "no embeddings": (find_neighbours, [], 2, "no such folder"),
    "undeclared fingerprint": (
        embed_images,
        ["--fingerprint", "vgg17"],
        2,
        "no such folder",
    ),
    "impossible k": (find_neighbours, ["-k", "-1"], 2, "-k -1: should be greater than or equal to 0"),
    "unknown metric": (find_neighbours, ["--metric", "manhattan"], 2, "'cosine', 'correlation' or 'euclidean'"),
    "made here": (find_neighbours, ["--embeddings", ".", "--fingerprint", "vgg16-fc2"], 2, "which is made here"),
    "number for a name": (embed_images, ["--fingerprint", "123"], 2, "no such folder"),
    "pipeline": (run_pipeline, ["--images", ".", "--fingerprint", "123"], 2, "fingerprint '123' is not declared"),
    "no such vectors": (find_neighbours, ["--embeddings", "/no/such.parquet"], 2, "no such file or folder"),
    "unwritable": (build_manifest, ["--images", ".", "--warehouse", "/proc/nowhere"], 2, "cannot be written"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_and_its_code(run: Run, tmp_path: Path, capsys: Any, case: str) -> None:
    job, arguments, code, message = BAD[case]
    place = [] if "--warehouse" in arguments else ["--warehouse", tmp_path / "w"]
    assert run(job, *place, *arguments) == code
    told = capsys.readouterr().err
    assert message in told and told.startswith(f"{name_of(job)}: error: ")
    assert "Traceback" not in told and len(told.strip().splitlines()) <= 2
    assert not (tmp_path / "w" / "_current.json").exists()


def weights_case(tmp_path: Path, weights: str, extra: str = "") -> list[str]:
    declared = f'{{network="squeezenet1_1",weights="{weights}",layer="features"{extra}}}'
    return ["--set", f"fingerprints.bad={declared}", "--fingerprint", "bad"]


def test_bad_weights_and_layers(run: Run, folder: Path, tmp_path: Path, capsys: Any) -> None:
    assert run(build_manifest, "--images", folder, "--warehouse", tmp_path / "w") == 0
    pointer = (tmp_path / "w" / "_current.json").read_bytes()
    (tmp_path / "text.pth").write_text("weights")
    cases = [
        (weights_case(tmp_path, "http://127.0.0.1:9/w.pth"), 1, "cannot be reached"),
        (weights_case(tmp_path, str(tmp_path / "text.pth")), 2, "no state dict"),
        (weights_case(tmp_path, str(tmp_path / "text.pth"), f',weights_sha256="{"0" * 64}"'), 2, "the sha256 of"),
        ([*weights_case(tmp_path, "untrained"), "--set", "fingerprints.bad.layer=feature"], 2, "did you mean features"),
        (
            [*weights_case(tmp_path, "untrained"), "--set", "fingerprints.bad.network=squeezenet"],
            2,
            "did you mean squeezenet1",
        ),
    ]
    for arguments, code, message in cases:
        capsys.readouterr()
        assert run(embed_images, "--warehouse", tmp_path / "w", *arguments) == code, arguments
        assert message in capsys.readouterr().err
    assert (tmp_path / "w" / "_current.json").read_bytes() == pointer


def test_another_job_publishes_the_same_slot_meanwhile(
    run: Run, folder: Path, tmp_path: Path, tiny: list[str], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--warehouse", tmp_path / "w", *tiny, *LENIENT]
    assert run(run_pipeline, "--images", folder, *arguments) == 0
    from image_similarity.stages.neighbours import in_process

    original = in_process.run

    def overtaken(*inputs: Any) -> Any:
        monkeypatch.setattr(in_process, "run", original)
        assert run(find_neighbours, *arguments) == 0
        return original(*inputs)

    monkeypatch.setattr(in_process, "run", overtaken)
    capsys.readouterr()
    assert run(find_neighbours, *arguments) == 1
    assert "another job published" in capsys.readouterr().err
    assert ask(tmp_path / "w", "SELECT count(*) FROM runs WHERE job = 'find_neighbours'") == [(2,)]


def test_vectors_of_ones_own(run: Run, tmp_path: Path) -> None:
    vectors: list[Any] = [
        [1.0, 0.0],
        [0.9, 0.1],
        [0.0, 1.0],
        None,
        [0.0, 0.0],
        [1.0, float("nan")],
        [1.0, 2.0, 3.0],
        [],
        [None, 1.0],
    ]
    table = pa.table(
        {
            "image_id": [f"i{i}" for i in range(len(vectors))],
            "embedding": pa.array(vectors, pa.list_(pa.float64())),
            "other": [1] * len(vectors),
        }
    )
    pq.write_table(table, tmp_path / "own vectors.parquet")
    assert (
        run(
            find_neighbours,
            "--embeddings",
            tmp_path / "own vectors.parquet",
            "--warehouse",
            tmp_path / "w",
            "-k",
            1,
            "--dissimilar",
            0,
        )
        == 0
    )
    found = ask(
        tmp_path / "w", "SELECT image_id, neighbour_id FROM neighbours WHERE fingerprint = 'external' ORDER BY 1"
    )
    assert found == [("i0", "i1"), ("i1", "i0"), ("i2", "i1")]
    reasons = dict(ask(tmp_path / "w", "SELECT image_id, reason FROM failures"))
    assert reasons == {
        "i3": "no_vector",
        "i4": "zero_vector",
        "i5": "non_finite",
        "i6": "wrong_length",
        "i7": "no_vector",
        "i8": "non_finite",
    }
    pointer = json.loads((tmp_path / "w" / "_current.json").read_text())["tables"]
    assert set(pointer["failures"]) == {"neighbours/external/cosine"}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image_id": ["a", "a"], "embedding": [[1.0], [2.0]]}, "stand more than once: 'a'"),
        ({"image_id": ["a"], "vector": [[1.0]]}, "no column embedding"),
        ({"image_id": ["a"], "embedding": ["text"]}, "embedding is string, not an array of numbers"),
        ({"image_id": pa.array([], pa.string()), "embedding": pa.array([], pa.list_(pa.float32()))}, "no rows"),
        ({"image_id": ["a", None], "embedding": [[1.0], [2.0]]}, "1 row has no image_id"),
    ],
)
def test_vectors_that_cannot_serve(
    run: Run, tmp_path: Path, capsys: Any, columns: dict[str, Any], message: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "own.parquet")
    assert run(find_neighbours, "--embeddings", tmp_path / "own.parquet", "--warehouse", tmp_path / "w") == 2
    assert message in capsys.readouterr().err
