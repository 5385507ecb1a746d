"""Resolves the weights of a network: torchvision's server, a path or URI, or a seed."""

import hashlib
import os
import socket
import sys
import tempfile
import urllib.error
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torchvision.models import get_model_weights

from image_similarity.errors import JobFailed, Unreadable, WrongInput
from image_similarity.fingerprints.networks import State, check_network, untrained_state
from image_similarity.settings import UNTRAINED, HttpSettings
from image_similarity.storage import blobs, http_client, timeouts, uris

_SECONDS_WITHOUT_AN_ANSWER = 20
_SECONDS_FOR_A_FILE = 3600
_LONGEST_NAME = 100


@dataclass(frozen=True)
class Weights:
    """A state dict, and where it comes from."""

    state: State
    source: str
    """For people: ``IMAGENET1K_V1``, a path or URI, or ``untrained (seed 0)``."""
    trained: bool
    passed_over: tuple[str, ...] = ()
    """Why each of the weights listed before it was not available, one line each."""


@dataclass(frozen=True)
class File:
    """A local file of weights, and where it comes from."""

    path: Path
    source: str
    passed_over: tuple[str, ...] = ()


def resolve(
    network: str, names: Sequence[str], sha256: str | None, seed: int, cache: Path, http: HttpSettings = HttpSettings()
) -> Weights:
    """The first of ``names`` that is available: a torchvision name, ``untrained``, or a path or URI of a state dict.

    Files are downloaded to ``cache`` once, and checked. torchvision's own are downloaded by torch.hub, others by our
    client as ``http`` says. Only unreachable weights are passed over. A file that exists and is wrong raises
    ``WrongInput``. If none of ``names`` is available, ``JobFailed`` says why, for each of them.
    """
    check_network(network)
    file = _first_of(network, names, sha256, cache, http)
    if file.source == UNTRAINED:
        source = f"untrained (seed {seed})"
        return Weights(untrained_state(network, seed), source, trained=False, passed_over=file.passed_over)
    return Weights(_load(file.path, file.source), file.source, trained=True, passed_over=file.passed_over)


def resolve_program(names: Sequence[str], sha256: str | None, cache: Path, http: HttpSettings = HttpSettings()) -> File:
    """The first available file of ``names``, paths or URIs of ``torch.export`` programs. Raises as `resolve` does."""
    return _first_of(None, names, sha256, cache, http)


def _first_of(network: str | None, names: Sequence[str], sha256: str | None, cache: Path, http: HttpSettings) -> File:
    """The first of ``names`` that is available. For `UNTRAINED` the returned file has that source and an empty path."""
    passed_over: list[str] = []
    for name in names:
        if network is not None and name == UNTRAINED:
            return File(Path(), UNTRAINED, tuple(passed_over))
        try:
            file = _weights_file(network, name, sha256, cache, http)
        except ValueError as error:
            raise WrongInput(f"weights {name}: {error}") from None
        except (OSError, Unreadable) as error:
            passed_over.append(f"weights {name} of {network or 'the program'} cannot be reached: {_reason(error)}")
            continue
        return File(file, name, tuple(passed_over))
    advice = "Give a path or URI that can be read" + (", or end the list with 'untrained'" if network else "")
    raise JobFailed("; ".join(passed_over) + f". {advice}")


def _reason(error: Exception) -> str:
    if isinstance(error, Unreadable):
        return error.detail or error.reason
    is_plain = isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError)
    return str(error.reason if is_plain else error)  # type: ignore[attr-defined]


def _weights_file(network: str | None, name: str, sha256: str | None, cache: Path, http: HttpSettings) -> Path:
    """The local file of weights ``name``.

    Raises ``OSError`` or ``Unreadable`` if it is not reachable, and ``WrongInput`` if it is not the expected file.
    """
    members = get_model_weights(network).__members__ if network else {}
    seconds = max(http.total_seconds, _SECONDS_FOR_A_FILE)
    if name in members:
        url = members[name].url
        file = cache / url.rpartition("/")[2]
        # The names of torchvision's files end with the beginning of their sha256.
        return _checked(
            _downloaded(file, partial(_by_torch_hub, url), seconds),
            name,
            sha256 or file.stem.rpartition("-")[2],
            downloaded=True,
        )
    if not uris.is_local(name):
        file_name = name.partition("?")[0].rpartition("/")[2][-_LONGEST_NAME:]  # a signature may be long, and is secret
        file = cache / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}-{file_name}"
        options = http.model_copy(update={"private_addresses": True, "total_seconds": seconds})
        downloaded = _downloaded(file, partial(_by_our_client, name, options=options), seconds)
        return _checked(downloaded, name, sha256, downloaded=True)
    if network and "/" not in name and "." not in name:
        raise WrongInput(
            f"{network} has no weights {name!r}; torchvision's are: {', '.join(members)}; or give a path or URI"
        )
    file = Path(uris.absolute(name))
    if not timeouts.within(seconds, file.exists):
        raise FileNotFoundError(f"no such file: {file}")
    return _checked(file, name, sha256, downloaded=False)


def _downloaded(file: Path, download: Callable[[Path], None], seconds: float) -> Path:
    """``file``, downloaded if it does not exist yet. Raises ``TimeoutError`` if that takes longer than ``seconds``."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        # An abandoned download, or one at the end of a process, leaves nothing behind.
        with tempfile.TemporaryDirectory(dir=file.parent, prefix="download-", ignore_cleanup_errors=True) as folder:
            downloaded = Path(folder) / file.name
            timeouts.within(seconds, download, downloaded)
            os.replace(downloaded, file)
    return file


def _by_torch_hub(url: str, file: Path) -> None:
    """Downloads as torchvision itself does, so with the proxies of the environment."""
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SECONDS_WITHOUT_AN_ANSWER)  # torch.hub would wait for ever
    try:
        torch.hub.download_url_to_file(url, str(file), progress=sys.stderr.isatty())
    finally:
        socket.setdefaulttimeout(previous)


def _by_our_client(address: str, file: Path, options: HttpSettings) -> None:
    """Downloads an address that the settings name. It may be in the operator's own network."""
    if uris.scheme_of(address) not in http_client.SCHEMES:
        blobs.download(address, file)
        return
    http_client.download(address, file, options)


def _checked(file: Path, name: str, expected: str | None, downloaded: bool) -> Path:
    """``file``, if its sha256 begins with ``expected``. Raises ``WrongInput`` if not."""
    if expected and not (digest := timeouts.within(_SECONDS_FOR_A_FILE, _sha256, file)).startswith(expected):
        if downloaded:
            file.unlink()  # the next run fetches it again
        raise WrongInput(
            f"weights {name}: the sha256 of {file} is {digest}, not {expected}: it is damaged or another file"
        )
    return file


def _sha256(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _load(file: Path, name: str) -> State:
    """A state dict from ``file``. Nothing in the file is executed. Raises ``WrongInput`` if it is no state dict."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # on foreign files pickle, zip and tar raise errors of any class
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WrongInput(
            f"weights {name}: {file} is no state dict that torch.load(weights_only=True) takes: {first}"
        ) from None
    if (
        not isinstance(state, Mapping)
        or not state
        or not all(isinstance(value, torch.Tensor) for value in state.values())
    ):
        raise WrongInput(f"weights {name}: {file} holds a {type(state).__name__}, not a state dict (names to tensors)")
    return state
