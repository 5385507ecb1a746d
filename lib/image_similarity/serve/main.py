"""Serve a page on this machine that shows what in the collection looks like a picture of yours."""

import argparse
import html
import importlib.util
import secrets
import tempfile
import threading
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from image_similarity import reporting
from image_similarity.errors import JobFailed, WrongInput, counted

if TYPE_CHECKING:
    from image_similarity.serve.app import Desk
    from image_similarity.serve.asking import Asking

HOST, PORT = "127.0.0.1", 8777
USAGE = "--warehouse URI"
_EXTRA = ("starlette", "uvicorn", "python_multipart")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``image-similarity serve``."""
    parser.add_argument("--warehouse", required=True, metavar="URI", help="the warehouse of the collection")
    parser.add_argument("--gallery", metavar="URI", help="its gallery: results lead to its pages")
    parser.add_argument(
        "--fingerprint",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="the fingerprints that can be chosen, the usual one first (default: all that are published)",
    )
    parser.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="the weights of a fingerprint, where those that its run recorded are gone; repeatable",
    )
    parser.add_argument("--port", type=int, default=PORT, help="0: any that is free (default: %(default)s)")
    parser.add_argument("--host", default=HOST, help="where to listen (default: %(default)s, this machine alone)")
    parser.add_argument(
        "--allow-network",
        action="store_true",
        help="with --host: others on the network may ask, too, if they know the token, which travels unencrypted",
    )
    parser.add_argument(
        "--max-bytes",
        type=int,
        metavar="N",
        help="largest file (default: 67108864, 64 MiB; never more than the collection's own embeddings.max_bytes)",
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument("--verbose", action="store_true", help="show tracebacks")


def run(arguments: argparse.Namespace) -> int:
    """Serves until Ctrl-C or SIGTERM, and returns 0. Raises ``WrongInput`` before it serves."""
    _check(arguments)
    import image_similarity
    from image_similarity.serve.app import application
    from image_similarity.serve.server import Server, listen

    with listen(arguments.host, arguments.port) as listening:
        collection = image_similarity.open(arguments.warehouse, weights=_weights(arguments.weights))
        port, token = listening.getsockname()[1], secrets.token_urlsafe(24)
        app = application(
            collection,
            arguments.gallery,
            token,
            host=arguments.host,
            port=port,
            fingerprints=arguments.fingerprint,
            max_bytes=arguments.max_bytes,
            verbose=arguments.verbose,
        )
        address = f"http://{_in_address(arguments.host)}:{port}/?token={token}"
        server = Server(app, listening)
        desk: Desk = app.state.desk
        _say(desk, address, arguments.max_bytes)
        threading.Thread(target=_warm, args=(desk.asking,), name="warming up", daemon=True).start()
        try:
            with _browser_at(address) if arguments.open else nullcontext():
                server.run()
        finally:
            desk.close()
    reporting.current().tell("result", "stopped")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise WrongInput(f"serve needs {', '.join(missing)}: pip install 'image-similarity[serve]'")
    if not 0 <= arguments.port < 1 << 16:
        raise WrongInput(f"--port {arguments.port}: give a number from 0 to 65535")
    if arguments.max_bytes is not None and arguments.max_bytes < 1:
        raise WrongInput(f"--max-bytes {arguments.max_bytes}: give at least 1")
    from image_similarity.serve.guard import is_loopback

    if not is_loopback(arguments.host) and not arguments.allow_network:
        raise WrongInput(
            f"--host {arguments.host}: others on the network could ask, and read the token, which travels unencrypted; "
            "say --allow-network if that is wanted"
        )


def _weights(given: Sequence[str]) -> dict[str, str]:
    """NAME=FILE of ``--weights`` by NAME."""
    weights = {}
    for each in given:
        name, is_there, file = each.partition("=")
        if not (name and is_there and file):
            raise WrongInput(f"--weights {each}: write NAME=FILE, with the name of the fingerprint")
        weights[name] = file
    return weights


def _say(desk: "Desk", address: str, max_bytes: int | None) -> None:
    """What is served, and where. This is the only place where the token is shown."""
    opened = desk.asking.opened
    if max_bytes is not None and max_bytes > desk.max_bytes:
        desk.asking.tell(
            f"--max-bytes {max_bytes}: files of up to {desk.max_bytes} bytes are taken, "
            "as the collection was embedded with (embeddings.max_bytes)"
        )
    images = max(each.images for each in opened.fingerprints.values())
    print(f"{counted(images, 'image')} of {opened.collection.uri} by {', '.join(opened.fingerprints)}")
    print(f"open {address}   (Ctrl-C ends it)", flush=True)


def _in_address(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@contextmanager
def _browser_at(address: str) -> Iterator[None]:
    """Opens the browser at ``address``.

    All accounts of a machine can read the arguments of a browser, and ``address`` holds the token: so it is told the
    name of a file that leads there, which no other account can read.
    """
    with tempfile.TemporaryDirectory(prefix="image-similarity-", ignore_cleanup_errors=True) as folder:  # mode 0700
        file, quoted = Path(folder, "open.html"), html.escape(address)
        file.touch(0o600)
        file.write_text(
            '<!doctype html><html lang="en"><meta charset="utf-8">'
            f'<meta http-equiv="refresh" content="0; url={quoted}">'
            f'<title>Image similarity</title><p><a href="{quoted}">Go on</a></p></html>',
            encoding="utf-8",
        )
        threading.Thread(target=webbrowser.open, args=(file.as_uri(),), daemon=True).start()
        yield


def _warm(asking: "Asking") -> None:
    """Reads the vectors and the network, so that the first question does not wait for them."""
    from image_similarity.serve.asking import warm_up

    try:
        warm_up(asking.opened)
    except Exception as error:  # whoever asks is told, too
        text = (str(error).splitlines() or [""])[0]
        words = text if isinstance(error, JobFailed) else f"{type(error).__name__}: {text}"
        asking.tell(f"pictures cannot be looked for yet: {words}")
