"""What published tables were made of, as their rows and the records of their runs tell."""

from collections.abc import Iterable, Sequence

from image_similarity.warehouse.snapshot import Snapshot


def images_folder(published: Snapshot) -> str:
    """The images that build_manifest was given; empty if that run is not known."""
    runs = published.run_ids("manifest", "")
    return next((str(published.runs[run].settings["images"]) for run in runs if run in published.runs), "")


def fingerprint_keys(published: Snapshot, runs: Sequence[str]) -> list[str]:
    """The fingerprint keys in ``runs`` of ``embeddings``, each once. Raises as `Snapshot.of_runs` does."""
    rows = published.of_runs("embeddings", runs, ["fingerprint_key"])
    keys: list[str] = rows["fingerprint_key"].unique().to_pylist()
    return keys


def runs_read(published: Snapshot, runs: Iterable[str], table: str) -> list[str]:
    """The runs of ``table`` that ``runs`` have read, as far as they are recorded."""
    return [read for run in runs if run in published.runs for read in published.runs[run].inputs.get(table, [])]
