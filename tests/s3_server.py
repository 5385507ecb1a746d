"""An S3-compatible server in a process of its own, on loopback; prints its port. ``python s3_server.py``"""

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow.fs as pafs
import pytest

from image_similarity.storage import blobs


def main() -> None:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").disabled = True  # a line for every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)
    threading.Event().wait()


@contextmanager
def serving(bucket: str) -> Iterator[str]:
    """A server with an empty ``bucket``; its ``s3://`` URI. The environment names the server, as that of workers
    would.
    """
    process = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    address = f"http://127.0.0.1:{int(process.stdout.readline())}"
    named = {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**named, "AWS_EC2_METADATA_DISABLED": "true"}.items():
                patch.setenv(name, value)
            blobs._remote_filesystem.cache_clear()
            pafs.S3FileSystem(endpoint_override=address, allow_bucket_creation=True).create_dir(bucket)
            yield f"s3://{bucket}"
    finally:
        blobs._remote_filesystem.cache_clear()
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
