"""A secret in every address that a user can give: none of it in messages, records, galleries and reports."""

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from image_similarity.fingerprints import networks
from image_similarity.jobs import (
    build_manifest,
    compare_fingerprints,
    download_images,
    embed_images,
    find_neighbours,
    run_pipeline,
)
from processes import draw

SECRET = "made-up-secret"
SIGNED = f"?signature={SECRET}"
ADDRESSES_FOR_JOBS = ("manifest", "downloads", "failures")
"""Tables that hold addresses as they were given: other jobs fetch what is there."""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Of a server of four pictures, weights, and an address that leads to another one with the secret."""
    served = tmp_path / "served"
    draw(served, range(4))
    torch.save(networks.untrained_state("squeezenet1_1", 1), served / "weights.pth")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            if self.path.startswith("/moved"):
                self.send_response(302)
                self.send_header("Location", f"/gone.jpg{SIGNED}")
                self.end_headers()
            elif self.path.startswith("/loop"):
                self.send_response(302)
                self.send_header("Location", self.path)
                self.end_headers()
            else:
                super().do_GET()

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def listed(address: str, tmp_path: Path) -> Path:
    """A list of pictures, and of addresses that fail in every way."""
    good = [f"{address}/{number}.jpg{SIGNED}&n={number}" for number in range(4)]
    bad = [f"{address}/{name}{SIGNED}" for name in ("gone.jpg", "moved", "loop", "weights.pth")]
    bad += [f"http://user:{SECRET}@127.0.0.1:9/a.jpg", f"http://user:{SECRET}@no host/", f"ftp://u:{SECRET}@h/a.jpg"]
    bad += [f"s3n://key:{SECRET}@bucket/a.jpg", f"http://user:{SECRET}/+@host/a.jpg{SIGNED}"]
    rows = [f'{name},"{uri}","{uri}"' for name, uri in enumerate([*good, *bad])]
    file = tmp_path / "list.csv"
    file.write_text("\n".join(["image_id,uri,link", *rows]) + "\n")
    return file


def settings(address: str, allowed: int = 1) -> list[str]:
    network = f'network="squeezenet1_1",layer="features.3",pooling="average",weights="{address}/weights.pth{SIGNED}"'
    missing = f'network="squeezenet1_1",layer="features.3",weights="{address}/none.pth{SIGNED}"'
    values = [
        f"fingerprints.tiny={{{network}}}",
        f"fingerprints.missing={{{missing}}}",
        'fingerprints.colours={kind="colour-histogram"}',
        f"embeddings.max_failed_fraction={allowed}",
        "downloads.max_failed_fraction=1",
        "http.private_addresses=true",
        "http.retries=0",
        "http.connect_seconds=1",
    ]
    return [argument for value in values for argument in ("--set", value)]


def texts(folder: Path) -> Iterator[tuple[Path, str]]:
    """The content of every file below ``folder``; tables as their values."""
    for file in (path for path in folder.rglob("*") if path.is_file()):
        if file.suffix == ".parquet":
            yield file, json.dumps(pq.ParquetFile(file).read().to_pylist(), default=str)
        else:
            yield file, file.read_bytes().decode("utf-8", "replace")


def test_no_secret_is_published(run: Any, address: str, listed: Path, tmp_path: Path, capfd: Any) -> None:
    warehouse, pages = tmp_path / "w", tmp_path / "pages"
    common = [*settings(address), "--warehouse", warehouse]
    both = ["--fingerprint", "tiny", "--fingerprint", "colours"]
    assert run(run_pipeline, *common, *both, "--images", listed, "--gallery", pages / "gallery") == 0
    assert run(compare_fingerprints, *common, *both, "--report", pages / "report") == 0
    assert run(download_images, *common, "--catalogue", listed, "--images", tmp_path / "images") == 0
    for log_format in ("text", "json"):  # and all that can go wrong
        wrong = [*common, "--log-format", log_format]
        assert run(embed_images, *wrong, "--fingerprint", "missing") == 1
        strict = [*settings(address, allowed=0), "--warehouse", warehouse, "--log-format", log_format]
        assert run(embed_images, *strict, "--fingerprint", "colours", "--retry-failed") == 3
        assert run(build_manifest, *wrong, "--images", f"{address}/list.csv{SIGNED}") == 2
        assert run(build_manifest, *wrong, "--images", f"s3n://key:{SECRET}@bucket/none/") == 2
        assert run(find_neighbours, *wrong, "--embeddings", f"{address}/v.parquet{SIGNED}") == 2
        unknown = ["--warehouse", f"nowhere://user:{SECRET}@host/w"]
        assert run(build_manifest, *settings(address), "--images", listed, *unknown, "--log-format", log_format) != 0
    told = "".join(capfd.readouterr())
    assert "weights.pth?..." in told
    assert [line for line in told.splitlines() if SECRET in line] == []
    held = {file for file, text in texts(tmp_path / "w") if SECRET in text}
    assert held and {file.relative_to(warehouse).parts[0] for file in held} <= set(ADDRESSES_FOR_JOBS)
    shown = {file: text.replace("<wbr>", "") for file, text in texts(pages)}  # where long words may be broken
    assert len(shown) > 20 and not [file for file, text in shown.items() if SECRET in text or SECRET in str(file)]
