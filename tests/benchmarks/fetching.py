"""Embedding from a slow HTTP server and from an object store, against the same files on disk: interleaved, in one run.

    .venv/bin/python tests/benchmarks/fetching.py FOLDER [--rounds 3] [--delay 0.05] [--weights FILE]

``FOLDER``: pictures. The network is SqueezeNet 1.1, about the lightest there is: fetching has little to hide behind.
The servers are processes of their own on this machine, and what processor time they take is told, since the network
could have used it: moto takes 6 ms for each picture, more than half of what everything else does. ``--light`` puts a
server in its place that takes little.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Callable
from pathlib import Path

from pyspark.sql import SparkSession

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from image_similarity.jobs import (
    build_manifest,
    command_line,
    embed_images,
)
from image_similarity.runtime.session import open_session
from image_similarity.storage import blobs
from image_similarity.warehouse.records import new_run_id

BUCKET = "pictures"


def start(*command: str) -> tuple["subprocess.Popen[str]", int]:
    """A server, and its port."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def processor_seconds(process: "subprocess.Popen[str]") -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--delay", type=float, default=0.05)
    parser.add_argument("--light", action="store_true", help="a store that only serves files, instead of moto")
    parser.add_argument("--weights", default="untrained")
    arguments = parser.parse_args()
    files = sorted(file for file in arguments.folder.resolve().rglob("*.jpg"))
    http, http_port = start(
        str(ROOT / "tests/benchmarks/slow_server.py"), str(arguments.folder.resolve()), str(arguments.delay)
    )
    light = [str(ROOT / "tests/benchmarks/slow_server.py"), str(arguments.folder.resolve()), "0"]
    store, store_port = start(*(light if arguments.light else [str(ROOT / "tests/s3_server.py")]))
    os.environ.update(
        AWS_ENDPOINT_URL=f"http://127.0.0.1:{store_port}", AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b"
    )
    os.environ.update(AWS_DEFAULT_REGION="us-east-1", AWS_EC2_METADATA_DISABLED="true")
    names = [str(file.relative_to(arguments.folder.resolve())) for file in files]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not arguments.light:
            _upload(files, names)
        lists = {
            "disk": [str(file) for file in files],
            "http": [f"http://127.0.0.1:{http_port}/{urllib.parse.quote(each)}" for each in names],
            "s3": [f"s3://{BUCKET}/{each}" for each in names],
        }
        for source, uris in lists.items():
            (folder / f"{source}.csv").write_text("uri\n" + "\n".join(f'"{uri}"' for uri in uris) + "\n")
        session = open_session("bench")
        run = _embedding(session, folder, arguments.weights)
        run("disk")  # starts the workers
        seconds: dict[str, list[float]] = {source: [] for source in lists}
        servers = {"http": http, "s3": store}
        used = {source: 0.0 for source in lists}
        for _ in range(arguments.rounds):
            for source in lists:
                before = processor_seconds(servers[source]) if source in servers else 0.0
                seconds[source].append(run(source))
                used[source] += (processor_seconds(servers[source]) - before) if source in servers else 0.0
        session.stop()
    for process in (http, store):
        process.kill()
    report(seconds, used, len(files), arguments)
    return 0


def _upload(files: list[Path], names: list[str]) -> None:
    import pyarrow.fs as pafs

    pafs.S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"], allow_bucket_creation=True).create_dir(BUCKET)
    for file, name in zip(files, names):
        blobs.write(f"s3://{BUCKET}/{name}", file.read_bytes(), "image/jpeg")


def _embedding(session: SparkSession, folder: Path, weights: str) -> Callable[[str], float]:
    """A function that embeds what a list names, into a warehouse of its own, and tells the seconds of the pass over the
    images.
    """
    preprocessing = "torchvision" if weights == "untrained" else "caffe"
    declared = f'{{network="squeezenet1_1",weights="{weights}",layer="features",pooling="average",'
    declared += f'preprocessing="{preprocessing}"}}'

    def run(source: str) -> float:
        from image_similarity.stages.embeddings import stage

        shared = ["--warehouse", str(folder / new_run_id()), "--set", f"fingerprints.small={declared}"]
        shared += ["--set", "neighbours.fingerprint=small", "--set", "http.private_addresses=true"]
        shared += ["--set", "http.connections_per_host=8", "--set", "embeddings.runner=spark"]  # its workers stay
        assert (
            command_line.main(build_manifest, [*shared, "--images", str(folder / f"{source}.csv")], session=session)
            == 0
        )
        taken: list[float] = []
        measured = stage._results

        def timed(*given: object) -> object:
            import time

            start = time.perf_counter()
            results = measured(*given)  # type: ignore[arg-type]
            taken.append(time.perf_counter() - start)
            return results

        stage._results = timed  # type: ignore[assignment]
        try:
            assert command_line.main(embed_images, shared, session=session) == 0
        finally:
            stage._results = measured
        return taken[0]

    return run


def report(seconds: dict[str, list[float]], used: dict[str, float], images: int, arguments: argparse.Namespace) -> None:
    medians = {source: statistics.median(values) for source, values in seconds.items()}
    print(
        f"\n{images} pictures, {os.cpu_count()} cores, medians of {arguments.rounds}; HTTP after "
        f"{arguments.delay * 1000:.0f} ms"
    )
    print("\n| from | seconds | images/s | of disk's | the server's processor time, s |\n|---|--:|--:|--:|--:|")
    for source, median in medians.items():
        share = medians["disk"] / median
        print(
            f"| {source} | {median:.1f} | {images / median:.1f} | {share:.2f} | {used[source] / arguments.rounds:.1f} |"
        )
    told = (f"{source}: {', '.join(f'{value:.1f}' for value in values)}" for source, values in seconds.items())
    print("\nall rounds, seconds: " + "; ".join(told))


if __name__ == "__main__":
    sys.exit(main())
