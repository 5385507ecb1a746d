"""manifest -> embeddings and failures: put each image through a network, once."""

import argparse
import atexit
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from image_similarity import cli
from image_similarity.cli import Application, Job, say
from image_similarity.errors import JobFailed, TooManyFailures, WrongInput
from image_similarity.spark import ship
from image_similarity.stages import embeddings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fingerprint", action="append", dest="fingerprints", metavar="NAME", help="repeatable (default: neighbours.fingerprint)"
    )


def add_switches(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--replace-fingerprint", action="store_true", help="go on where the published vectors were made in another way"
    )


def run(application: Application) -> None:
    names = getattr(application.arguments, "fingerprints", None) or [application.settings.neighbours.fingerprint]
    for name in names:
        check(application, name)
    for name in dict.fromkeys(names):
        embed(application.job("embed_images", name), name)


def check(application: Application, name: str) -> None:
    """Raise ``WrongInput`` if fingerprint ``name`` is not declared, or its network or layer does not exist."""
    from image_similarity.kernels.fingerprints import networks

    declared = application.settings.fingerprint(name)
    networks.check_network(declared.network)
    networks.resolve_layer(declared.network, declared.layer)


def embed(job: Job, name: str) -> None:
    if job.already_published():
        return
    manifest_runs = job.seen.runs("manifest", "")
    if not manifest_runs:
        raise WrongInput(f"no manifest is published in {job.warehouse.uri}: run build_manifest first")
    declared = job.settings.fingerprint(name)
    job.plan(
        f"embed the images of manifest {manifest_runs[0]} as {name}: {declared.network} {declared.layer}, "
        f"weights {' or '.join(declared.weights)}",
        f"write embeddings, vectors and failures to {job.warehouse.uri}",
    )
    prepared, used = _prepare(job, name)
    key = prepared.network.key
    published = job.warehouse.read("embeddings", job.seen.runs("embeddings", name))
    _check_key(job, name, published.select("fingerprint_key").first(), key)
    vector_runs = job.seen.runs("vectors", key)
    inputs = embeddings.Inputs(job.warehouse.read("manifest", manifest_runs), published, job.warehouse.read("vectors", vector_runs))
    with job.warehouse.scratch(job.run_id) as scratch:
        fingerprint = embeddings.Fingerprint(name, prepared.network, ship(job.session, _saved(prepared, job.run_id)))
        outputs = embeddings.run(job.session, inputs, fingerprint, job.settings.embeddings, scratch)
        counts = _write(job, inputs, outputs)
    job.publish(
        replace={"embeddings": {name: job.run_id}, "failures": {name: job.run_id}},
        append={"vectors": {key: job.run_id}} if counts["vectors_added"] else None,
        inputs={"manifest": manifest_runs, "embeddings": job.seen.runs("embeddings", name), "vectors": vector_runs},
        counts=counts,
        used=used,
    )
    _summarise(job, name, counts)


def _prepare(job: Job, name: str) -> tuple[Any, dict[str, Any]]:
    """The network with its weights, and what is recorded of it."""
    import torch  # takes seconds: only this job needs it on the driver

    from image_similarity import weights
    from image_similarity.kernels.fingerprints import networks

    declared = job.settings.fingerprint(name)
    cache = Path(torch.hub.get_dir()) / "checkpoints"  # torchvision's own: what it has downloaded is found
    found = weights.resolve(declared.network, declared.weights, declared.weights_sha256, declared.seed, cache)
    for line in found.passed_over:
        say(f"note: {line}; going on with {found.source} weights")
    say(f"weights: {found.source}")
    prepared = networks.prepare(
        declared.network,
        declared.layer,
        found.state,
        pooling=declared.pooling,
        preprocessing=declared.preprocessing,
        precision=declared.precision,
        source=found.source,
    )
    used = {
        "fingerprint": {name: declared.model_dump()},
        "network": asdict(prepared.network),
        "fingerprint_key": prepared.network.key,
    }
    return prepared, {
        **used,
        "weights": found.source,
        "trained": found.trained,
        "embeddings": job.settings.embeddings.model_dump(),
    }


def _saved(prepared: Any, run_id: str) -> Path:
    """The file of parameters. It is kept until this process ends: an executor that joins later asks for it."""
    folder = Path(tempfile.mkdtemp(prefix="image-similarity-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file = folder / f"{run_id}.pt"
    prepared.save(file)
    return file


def _check_key(job: Job, name: str, published: Any, key: str) -> None:
    if published is None or published.fingerprint_key == key or job.arguments.replace_fingerprint:
        return
    raise JobFailed(
        f"the published embeddings {name} were made in another way (key {published.fingerprint_key}, now {key}): other weights, "
        "layer or settings. Give this fingerprint another name, or replace the old one with --replace-fingerprint"
    )


def _write(job: Job, inputs: embeddings.Inputs, outputs: embeddings.Outputs) -> dict[str, Any]:
    """Write the tables, check that they account for every image, and count."""
    warehouse, run = job.warehouse, job.run_id
    warehouse.write("failures", run, outputs.failures)
    failures = warehouse.read("failures", [run])
    reasons = {row.reason: row["count"] for row in failures.groupBy("reason").count().orderBy("reason").collect()}
    failed = sum(reasons.values())
    if failed > job.settings.embeddings.max_failed_fraction * outputs.images:
        raise TooManyFailures(
            f"{failed:,} of {outputs.images:,} images failed ({_describe(reasons)}), more than embeddings.max_failed_fraction = "
            f"{job.settings.embeddings.max_failed_fraction} allows; nothing was published. Each failure is a row in "
            f"{warehouse.reader_path(warehouse.folder('failures', run))}"
        )
    warehouse.write("embeddings", run, outputs.embeddings)
    vectors = inputs.vectors
    if outputs.embedded:
        warehouse.write("vectors", run, outputs.vectors)
        vectors = vectors.unionByName(warehouse.read("vectors", [run]))
    embeddings.check(inputs.manifest, warehouse.read("embeddings", [run]), failures, vectors)
    return {
        "images": outputs.images,
        "not_read_again": outputs.reused,
        "embedded": outputs.embedded,
        "vectors_added": warehouse.read("vectors", [run]).count() if outputs.embedded else 0,
        "failures": reasons,
    }


def _summarise(job: Job, name: str, counts: dict[str, Any]) -> None:
    failed = sum(counts["failures"].values())
    copies = counts["images"] - failed - counts["not_read_again"] - counts["embedded"]
    parts = [f"{counts['embedded']:,} embedded", f"{counts['not_read_again']:,} unchanged", f"{copies:,} of known content"]
    say(f"embed_images {name}: {counts['images']:,} images in {job.seconds:.1f} s: " + ", ".join(parts) + f", {failed:,} failed")
    if failed:
        say(f"  failed: {_describe(counts['failures'])}")


def _describe(reasons: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())


def main(argv: list[str] | None = None, session: SparkSession | None = None) -> int:
    parser = cli.parser(__doc__ or "")
    add_arguments(parser)
    add_switches(parser)
    return cli.main(parser, run, __file__, argv, session)


if __name__ == "__main__":
    sys.exit(main())
