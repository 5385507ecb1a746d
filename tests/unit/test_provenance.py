"""What published tables were made of."""

from types import SimpleNamespace
from typing import Any

from image_similarity.warehouse import provenance


def published(**runs: dict[str, Any]) -> Any:
    """``runs``: run -> what it has read, of those that are recorded."""
    recorded = {
        run: SimpleNamespace(inputs=inputs, settings={"images": f"/images/{run}"}) for run, inputs in runs.items()
    }
    return SimpleNamespace(runs=recorded, run_ids=lambda table, slot: ["m0", "m1"] if table == "manifest" else [])


def test_the_images_are_those_of_the_first_run_that_is_recorded() -> None:
    assert provenance.images_folder(published(m0={}, m1={})) == "/images/m0"
    assert provenance.images_folder(published(m1={})) == "/images/m1"
    assert provenance.images_folder(published()) == ""


def test_runs_that_are_not_recorded_have_read_nothing_that_is_known() -> None:
    of = published(n1={"embeddings": ["e1", "e2"]}, n2={"manifest": ["m0"]})
    assert provenance.runs_read(of, ["n0", "n1", "n2"], "embeddings") == ["e1", "e2"]
