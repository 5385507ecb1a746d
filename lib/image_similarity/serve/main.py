"""Serve a page on this machine that shows what in the collection looks like a picture of yours."""

import argparse
import importlib.util
import secrets
import threading
import webbrowser
from collections.abc import Sequence
from typing import TYPE_CHECKING

from image_similarity import reporting
from image_similarity.errors import JobFailed, WrongInput

if TYPE_CHECKING:
    from image_similarity.serve.asking import Opened

HOST, PORT = "127.0.0.1", 8777
_MAX_BYTES = 64 << 20
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
        default=_MAX_BYTES,
        metavar="N",
        help="largest file (default: %(default)s)",
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
        _say(app.state.desk.asking.opened, address)
        threading.Thread(target=_warm, args=(app.state.desk.asking.opened,), name="warming up", daemon=True).start()
        if arguments.open:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        try:
            server.run()
        finally:
            app.state.desk.close()
    reporting.current().tell("result", "stopped")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise WrongInput(f"serve needs {', '.join(missing)}: pip install 'image-similarity[serve]'")
    if not 0 <= arguments.port < 1 << 16:
        raise WrongInput(f"--port {arguments.port}: give a number from 0 to 65535")
    if arguments.max_bytes < 1:
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


def _say(opened: "Opened", address: str) -> None:
    """What is served, and where. This is the only place where the token is shown."""
    names = ", ".join(opened.fingerprints)
    print(f"{opened.images:,} images of {opened.collection.uri} by {names}")
    print(f"open {address}   (Ctrl-C ends it)", flush=True)


def _in_address(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _warm(opened: "Opened") -> None:
    """Reads the vectors and the network, so that the first question does not wait for them."""
    from image_similarity.serve.asking import warm_up

    try:
        warm_up(opened)
    except Exception as error:  # whoever asks is told, too
        text = (str(error).splitlines() or [""])[0]
        words = text if isinstance(error, JobFailed) else f"{type(error).__name__}: {text}"
        reporting.current().tell("error", f"serve: pictures cannot be looked for yet: {words}")
