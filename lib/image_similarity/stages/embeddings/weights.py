"""Resolves the weights of a network: torchvision's server, a path or URI, or a seed."""

import hashlib
import socket
import sys
import urllib.error
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeGuard

import torch
from torchvision.models import get_model_weights

from image_similarity.errors import JobFailed, Unreadable, WrongInput, did_you_mean, no_such_file, sentences
from image_similarity.fingerprints.networks import State, check_network, untrained_state
from image_similarity.settings import UNTRAINED, HttpSettings
from image_similarity.stages.embeddings import local_weights, weights_cache
from image_similarity.storage import timeouts, uris

_SECONDS_WITHOUT_AN_ANSWER = 20
_NOT_WRITTEN = "torch.save has not written it"


@dataclass(frozen=True)
class Weights:
    """A state dict, and where it comes from."""

    state: State
    source: str
    """For people: ``IMAGENET1K_V1``, a path or URI, or ``untrained (seed 0)``."""
    trained: bool
    passed_over: tuple[str, ...] = ()
    """Why each of the weights listed before it was not available, one line each."""
    notes: tuple[str, ...] = ()
    """What people should know of the file, one line each."""


@dataclass(frozen=True)
class File:
    """A local file of weights, and where it comes from."""

    path: Path
    source: str
    passed_over: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def resolve(
    network: str,
    names: Sequence[str],
    sha256: str | None,
    seed: int,
    cache: Path,
    http: HttpSettings = HttpSettings(),
    advice: str | None = None,
    mapped: bool = False,
) -> Weights:
    """The first of ``names`` that is available: a torchvision name, ``untrained``, or a path or URI of a state dict.

    Files are downloaded to ``cache``, and checked. torchvision's own are downloaded by torch.hub, others by our client
    as ``http`` says, and again when the file at the address has changed (see `weights_cache`). Only unreachable weights
    are passed over. A file that exists and is wrong raises ``WrongInput``, and so do paths of which none is there. If
    none of ``names`` is available, ``JobFailed`` says why, for each of them, and what can be done (``advice``, where
    the caller knows it better). ``mapped``: parameters stay in their file until they are used, where its format allows.
    """
    check_network(network)
    file = _first_of(network, names, sha256, cache, http, advice)
    if file.source == UNTRAINED:
        source = f"untrained (seed {seed})"
        return Weights(untrained_state(network, seed), source, trained=False, passed_over=file.passed_over)
    state = _load(file.path, file.source, mapped and zipfile.is_zipfile(file.path))
    return Weights(state, file.source, trained=True, passed_over=file.passed_over, notes=file.notes)


def resolve_program(
    names: Sequence[str],
    sha256: str | None,
    cache: Path,
    http: HttpSettings = HttpSettings(),
    advice: str | None = None,
) -> File:
    """The first available file of ``names``, paths or URIs of ``torch.export`` programs. Raises as `resolve` does."""
    return _first_of(None, names, sha256, cache, http, advice)


def _first_of(
    network: str | None,
    names: Sequence[str],
    sha256: str | None,
    cache: Path,
    http: HttpSettings,
    advice: str | None = None,
) -> File:
    """The first of ``names`` that is available. For `UNTRAINED` the returned file has that source and an empty path."""
    local_weights.check(names)
    passed_over: list[str] = []
    for name in names:
        if network is not None and name == UNTRAINED:
            return File(Path(), UNTRAINED, tuple(passed_over))
        try:
            file, notes = _weights_file(network, name, sha256, cache, http)
        except ValueError as error:
            raise WrongInput(f"weights {name}: {error}") from None
        except (OSError, Unreadable) as error:
            passed_over.append(f"weights {name} of {network or 'the program'} cannot be reached: {_reason(error)}")
            continue
        return File(file, name, tuple(passed_over), notes)
    raise JobFailed(sentences("; ".join(passed_over), _advice(network, names) if advice is None else advice))


def _advice(network: str | None, names: Sequence[str]) -> str:
    """What can be done about weights that cannot be reached. Near names of missing files are told with the reasons."""
    members = get_model_weights(network).__members__ if network else {}
    urls = [members[name].url for name in names if name in members]
    if urls:
        untrained = "end the list with 'untrained'" if len(names) > 1 else f"give --weights {UNTRAINED}"
        return (
            f"Fetch {urls[0]} where there is internet, and name the file as the weights (--network {network} "
            f"--weights FILE); or {untrained}, for a network that has seen no picture"
        )
    if all(map(uris.is_local, names)):
        return ""
    return "Check the address, and that this machine reaches it; or name a file on this machine"


def _reason(error: Exception) -> str:
    if isinstance(error, Unreadable):
        return error.detail or error.reason
    is_plain = isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError)
    return str(error.reason if is_plain else error)  # type: ignore[attr-defined]


def _weights_file(
    network: str | None, name: str, sha256: str | None, cache: Path, http: HttpSettings
) -> tuple[Path, tuple[str, ...]]:
    """The local file of weights ``name``, and notes on it.

    Raises ``OSError`` or ``Unreadable`` if it is not reachable, and ``WrongInput`` if it is not the expected file.
    """
    members = get_model_weights(network).__members__ if network else {}
    seconds = max(http.total_seconds, weights_cache.SECONDS_FOR_A_FILE)
    if name in members:
        url = members[name].url
        file = cache / url.rpartition("/")[2]
        if not file.exists():
            weights_cache.download(file, partial(_by_torch_hub, url), seconds)
        # The names of torchvision's files end with the beginning of their sha256.
        return _checked(file, name, sha256 or file.stem.rpartition("-")[2], downloaded=True), ()
    if not uris.is_local(name):
        file, notes = weights_cache.copy_of(name, cache, http, pinned=sha256 is not None)
        return _checked(file, name, sha256, downloaded=True), notes
    if network:
        check_name(network, name)
    file = Path(uris.absolute(name))
    if not local_weights.is_there(str(file)):
        raise FileNotFoundError(no_such_file(str(file)))
    return _checked(file, name, sha256, downloaded=False), ()


def check_name(network: str, name: str) -> None:
    """Raises ``WrongInput`` if ``name`` is neither `UNTRAINED`, nor torchvision's, nor a path or URI."""
    members = get_model_weights(network).__members__
    if name == UNTRAINED or name in members or not uris.is_local(name) or local_weights.is_path(name):
        return
    suggestion = did_you_mean(name, [*members, UNTRAINED]) or ";"
    raise WrongInput(
        f"{network} has no weights {name!r}{suggestion} torchvision's are: {', '.join(members)}; or give a path or URI"
    )


def _by_torch_hub(url: str, file: Path) -> None:
    """Downloads as torchvision itself does, so with the proxies of the environment."""
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SECONDS_WITHOUT_AN_ANSWER)  # torch.hub would wait for ever
    try:
        torch.hub.download_url_to_file(url, str(file), progress=sys.stderr.isatty())
    finally:
        socket.setdefaulttimeout(previous)


def _checked(file: Path, name: str, expected: str | None, downloaded: bool) -> Path:
    """``file``, if its sha256 begins with ``expected``. Raises ``WrongInput`` if not."""
    if expected and not (digest := timeouts.within(weights_cache.SECONDS_FOR_A_FILE, _sha256, file)).startswith(
        expected
    ):
        if downloaded:
            weights_cache.forget(file)
        raise WrongInput(
            f"weights {name}: the sha256 of {file} is {digest}, not {expected}: it is damaged or another file"
        )
    return file


def _sha256(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _load(file: Path, name: str, mapped: bool = False) -> State:
    """A state dict from ``file``. Nothing in the file is executed. Raises ``WrongInput`` if it is no state dict."""
    try:
        state = torch.load(file, map_location="cpu", mmap=mapped, weights_only=True)
    except Exception as error:  # on foreign files pickle, zip and tar raise errors of any class
        # Others are about bytes that were taken for pickle's: a KeyError of 101, say.
        reason = str(error).splitlines()[0] if isinstance(error, UnpicklingError) and str(error) else _NOT_WRITTEN
        raise WrongInput(
            f"weights {name}: {file} is no state dict that torch.load(weights_only=True) takes: {reason}"
        ) from None
    if not _is_state(state):
        inside = [key for key, value in state.items() if _is_state(value)] if isinstance(state, Mapping) else []
        hint = f"; its entry {inside[0]!r} is one: save that alone" if inside else ""
        raise WrongInput(
            f"weights {name}: {file} holds a {type(state).__name__}, not a state dict (names to tensors){hint}"
        )
    return state


def _is_state(value: Any) -> TypeGuard[State]:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(parameter, torch.Tensor) for parameter in value.values())
    )
