"""Awkward and damaged files through embed_images: what becomes of each, what memory a worker takes, and which file is
slowest.

    .venv/bin/python tests/benchmarks/hostile_files.py FOLDER [--good FOLDER] [--mutations 500]

``FOLDER``: files of any kind. ``--good``: sound pictures that are damaged here, by flipped bits and cuts, from a seed.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import duckdb

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]


from benchmarks.measuring import Peak
from image_similarity.errors import Unreadable
from image_similarity.imaging import decoding
from image_similarity.jobs import command_line
from image_similarity.runtime.session import open_session
from image_similarity.settings import EmbeddingsSettings
from mutations import mutations

ROOT = Path(__file__).resolve().parents[2]
FINGERPRINT = '{network="squeezenet1_1",weights="untrained",layer="features",pooling="average"}'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--good", type=Path)
    parser.add_argument("--mutations", type=int, default=500)
    arguments = parser.parse_args()
    from image_similarity.jobs import build_manifest, embed_images

    with tempfile.TemporaryDirectory() as name:
        folder, warehouse = Path(name) / "files", Path(name) / "w"
        folder.mkdir()
        (folder / "given").symlink_to(arguments.folder.resolve())
        if arguments.good:
            originals = [file.read_bytes() for file in sorted(arguments.good.rglob("*")) if file.is_file()]
            (folder / "damaged").mkdir()
            for number, content in enumerate(mutations(originals, arguments.mutations, seed=0)):
                (folder / "damaged" / f"{number:04d}.jpg").write_bytes(content)
        shared = ["--warehouse", str(warehouse), "--set", f"fingerprints.small={FINGERPRINT}"]
        shared += ["--set", "neighbours.fingerprint=small", "--set", 'manifest.extensions=["*"]']
        shared += ["--set", "embeddings.max_failed_fraction=1"]
        session = open_session("bench")
        assert command_line.main(build_manifest, [*shared, "--images", str(folder)], session=session) == 0
        with Peak() as peak:
            assert command_line.main(embed_images, shared, session=session) == 0
        session.stop()
        report(warehouse, peak.bytes)
        slowest(folder)
    return 0


def report(warehouse: Path, peak: int) -> None:
    db = duckdb.connect()
    db.execute((warehouse / "views.sql").read_text())
    counted = (
        "SELECT (SELECT count(*) FROM manifest), (SELECT count(*) FROM embeddings), (SELECT count(*) FROM failures)"
    )
    images, embedded, failed = db.execute(counted).fetchall()[0]
    print(f"\n{images} files: {embedded} embedded, {failed} failed; accounted for: {images == embedded + failed}")
    db.sql("SELECT reason, count(*) AS files FROM failures GROUP BY 1 ORDER BY 2 DESC").show()
    print(f"largest Python worker: {peak / 2**20:,.0f} MiB")


def slowest(folder: Path) -> None:
    """Decode each once more, one after the other."""
    limit, took = EmbeddingsSettings().max_pixels, []
    decoding.prepare_process(limit)
    files = [Path(found) / name for found, _, names in os.walk(folder, followlinks=True) for name in names]
    with decoding.quiet_decoders():
        for file in files:
            content, start = file.read_bytes(), time.perf_counter()
            try:
                decoding.decode(content, limit, 512)
                outcome = "decoded"
            except Unreadable as error:
                outcome = error.reason
            took.append((time.perf_counter() - start, file, outcome))
    seconds, file, outcome = max(took)
    print(
        f"slowest file: {file.name}, {seconds:.2f} s ({outcome}); all {len(took)} in "
        f"{sum(each[0] for each in took):.1f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
