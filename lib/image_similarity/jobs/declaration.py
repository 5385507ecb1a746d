"""Flags that declare a fingerprint for one run, without a file of settings: ``--network`` and ``--weights``."""

import argparse
import re
from collections.abc import Set

from image_similarity.errors import WrongInput
from image_similarity.jobs import command_line
from image_similarity.settings import DEFAULT_FINGERPRINT, Given
from image_similarity.settings.fingerprints import check_name

PROGRAM = ".pt2"
"""The ending of programs that torch.export.save writes."""
_PREPROCESSING = ("torchvision", "caffe")
_LONGEST_NAME = 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--network",
        metavar="NAME",
        help="a torchvision network: declares a fingerprint, of --weights if given",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help=(
            "a path or URI of a state dict for --network, or of a program of torch.export (.pt2): declares a "
            "fingerprint, whose name is --fingerprint, or is made of network and file"
        ),
    )
    parser.add_argument(
        "--preprocessing",
        type=command_line.one_of(_PREPROCESSING),
        metavar="|".join(_PREPROCESSING),
        help="of the pictures for --network or --weights (default: torchvision)",
    )


def declare(arguments: argparse.Namespace, declared: Set[str]) -> list[Given]:
    """The settings that declare the fingerprint of ``--network`` and ``--weights``.

    It is the fingerprint of the run if ``--fingerprint`` names none. ``declared``: the fingerprints that settings
    declare. Raises ``WrongInput`` for flags that make no sense together.
    Everything that the flags leave open, as the layer, has a default or comes from ``--set``.
    """
    if not arguments.network and not arguments.weights:
        if arguments.preprocessing:
            raise WrongInput("--preprocessing goes with --network or --weights: there is neither")
        return []
    _check_together(arguments)
    name = _name(arguments, declared)
    arguments.fingerprints = arguments.fingerprints or [name]
    keys = {"network": arguments.network, "weights": arguments.weights, "preprocessing": arguments.preprocessing}
    given = [] if arguments.network else [Given(f"fingerprints.{name}.kind=exported", f"--weights {arguments.weights}")]
    return given + [
        Given(f"fingerprints.{name}.{key}={command_line.as_toml(value)}", f"--{key} {value}")
        for key, value in keys.items()
        if value
    ]


def _check_together(arguments: argparse.Namespace) -> None:
    network, weights = arguments.network, arguments.weights
    is_program = bool(weights) and _file_name(weights).lower().endswith(PROGRAM)
    if network and is_program:
        raise WrongInput(
            f"--network {network} with --weights {weights}: a {PROGRAM} file is a whole program, so leave --network out"
        )
    if not network and not is_program:
        raise WrongInput(
            f"--weights {weights}: say which network they are for, by --network NAME (only a program of torch.export, "
            f"*{PROGRAM}, says it itself); to give a declared fingerprint other weights: "
            f"--set fingerprints.{(arguments.fingerprints or [DEFAULT_FINGERPRINT])[0]}.weights={weights}"
        )


def _name(arguments: argparse.Namespace, declared: Set[str]) -> str:
    """The name of the fingerprint: the only one of ``--fingerprint`` that is not declared, or made of the flags."""
    flags = " and ".join(f"--{flag}" for flag in ("network", "weights") if getattr(arguments, flag))
    own = [name for name in dict.fromkeys(arguments.fingerprints or []) if name not in declared]
    if len(own) > 1:
        raise WrongInput(f"{flags} declare one fingerprint, and of --fingerprint {', '.join(own)} are not declared")
    if arguments.fingerprints and not own:
        names = " and ".join(dict.fromkeys(arguments.fingerprints))
        raise WrongInput(
            f"{flags}: the fingerprint {names} of --fingerprint is declared already. Choose another name for the new "
            "one, or leave --fingerprint out"
        )
    name = own[0] if own else made_name(arguments.network, arguments.weights)
    if name in declared:
        raise WrongInput(
            f"{flags}: the name would be {name}, which is declared already: give one by --fingerprint NAME"
        )
    try:
        return check_name(name)
    except ValueError as error:
        raise WrongInput(f"--fingerprint {name}: {error}") from None


def made_name(network: str | None, weights: str | None) -> str:
    """``squeezenet1-1-mine`` for squeezenet1_1 and ``/data/mine.pth``; the stem alone where it begins with the network.

    Names of fingerprints have small letters, digits and dashes.
    """
    stem = _slug(_file_name(weights).rpartition(".")[0] or _file_name(weights)) if weights else ""
    first = _slug(network or "")
    name = stem if stem.startswith(first) and stem else "-".join(part for part in (first, stem) if part)
    return name[:_LONGEST_NAME].strip("-") or "own"


def _file_name(weights: str) -> str:
    """The last part of a path or URI, without a query, which may be a signature."""
    path = weights.partition("?")[0] if "://" in weights else weights
    return path.rstrip("/").rpartition("/")[2]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
