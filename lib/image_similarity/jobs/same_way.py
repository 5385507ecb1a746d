"""Vectors that are made in another way are not mixed with the published ones of the same name: the message says what
differs, and what can be done.
"""

import argparse
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from image_similarity.errors import JobFailed, WrongInput, sentences
from image_similarity.jobs.job import library_versions
from image_similarity.settings import UNTRAINED, FingerprintSettings, NetworkSettings, Settings
from image_similarity.stages.embeddings import changes
from image_similarity.stages.embeddings.changes import Change
from image_similarity.warehouse.records import Record
from image_similarity.warehouse.snapshot import Snapshot


def check_settings(
    arguments: argparse.Namespace, published: Snapshot, name: str, declared: FingerprintSettings
) -> None:
    """Raises ``WrongInput`` as `check_key` will, if settings alone are enough to know it. Loads no weights."""
    record = None if arguments.replace_fingerprint else record_of(published, name)
    if record is not None and (different := changes.certain(name, record.settings, declared)):
        raise WrongInput(_message(arguments, name, different))


def check_key(
    arguments: argparse.Namespace, published: Snapshot, name: str, key: str | None, now: Mapping[str, Any]
) -> None:
    """Raises ``WrongInput``, with what differs, if the published vectors of ``name`` have another fingerprint key.

    ``key``: theirs, None if there are none. ``now``: what goes into ``runs.settings``.
    """
    if key is None or key == now["fingerprint_key"] or arguments.replace_fingerprint:
        return
    record = record_of(published, name)
    if record is None:
        raise WrongInput(_message(arguments, name, [], f"their run is not recorded (key {key})"))
    different = changes.all_of(name, record.settings, now)
    versions = _other_versions(record.versions)
    if not different:
        way = "settings and weights are the same, but the program computes vectors in another way"
        raise WrongInput(_message(arguments, name, [], f"{way} ({versions or 'in the same version'})"))
    if versions and now.get("trained") is False and [change.key for change in different] == [changes.WEIGHTS]:
        raise WrongInput(_message(arguments, name, different, f"random numbers of another version ({versions})"))
    raise WrongInput(_message(arguments, name, different))


def check_declared(published: Snapshot, names: Sequence[str], settings: Settings) -> None:
    """Raises ``WrongInput`` for one of ``names`` that is published and not declared: with what made it."""
    for name in names:
        if name in settings.fingerprints or (record := record_of(published, name)) is None:
            continue
        if flags := made_with(name, record.settings):
            raise WrongInput(
                f"fingerprint {name!r} is published here, but not declared in this run: declare it again, as it was "
                f"made, by {flags}"
            )


@contextmanager
def naming_published(published: Snapshot, declared: FingerprintSettings) -> Iterator[None]:
    """Adds to a ``JobFailed`` about weights the published fingerprints of the same network, and how they were made.

    ``declared``: the fingerprint whose weights are looked for.
    """
    try:
        yield
    except WrongInput:
        raise
    except JobFailed as error:
        same = _of_network(published, declared.network) if isinstance(declared, NetworkSettings) else []
        if not same:
            raise
        published_here = f"Published here: {'; '.join(same)} (did you forget --weights FILE?)"
        raise JobFailed(sentences(str(error), published_here)) from None


def _of_network(published: Snapshot, network: str) -> list[str]:
    """The published fingerprints of ``network``, each with the flags that made it."""
    named = [(name, record_of(published, name)) for name in sorted(published.slots("embeddings"))]
    records = [(name, record.settings) for name, record in named if record is not None]
    return [
        f"{name}, by {made_with(name, settings)}"
        for name, settings in records
        if changes.declared_in(name, settings).get("network") == network
    ]


def made_with(name: str, settings: Mapping[str, Any]) -> str:
    """The flags that declare the fingerprint ``name`` of a run's ``settings`` again; empty if they are not recorded."""
    declared = changes.declared_in(name, settings)
    if not declared:
        return ""
    kept = changes.not_by_default(declared)
    words = [f"--fingerprint {name}"]
    if declared["kind"] in ("network", "exported"):
        weights = kept.pop("weights", None)
        kept.pop("kind", None)
        flags = {"network": kept.pop("network", None), "weights": weights and settings.get("weights", weights[0])}
        flags["preprocessing"] = kept.pop("preprocessing", None)
        if settings.get("trained") is False:
            flags["weights"] = UNTRAINED
        words += [f"--{flag} {shlex.quote(str(value))}" for flag, value in flags.items() if value]
    else:
        kept = {"kind": declared["kind"], **kept}
    return " ".join([*words, *(_set(f"fingerprints.{name}.{key}", value) for key, value in kept.items())])


def _set(key: str, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return f"--set {shlex.quote(f'{key}={text}')}"


def record_of(published: Snapshot, name: str) -> Record | None:
    """The record of the run that published the embeddings ``name``; None if there is none, or it cannot be read."""
    try:
        runs = [published.runs.get(run) for run in published.run_ids("embeddings", name)]
    except (JobFailed, OSError):  # it is wanted for its words only
        return None
    return runs[0] if runs else None


def _message(arguments: argparse.Namespace, name: str, different: Sequence[Change], more: str = "") -> str:
    """What differs, ``more`` about it, and what can be done."""
    what = "; ".join([*map(str, different), *([more] if more else [])])
    flags = [_flag(arguments, name, change) for change in different if change.is_setting and change.before is not None]
    keep = f"To go on with them, give {' '.join(flags)}. " if flags and len(flags) == len(different) else ""
    return (
        f"the published embeddings {name} were made in another way: {what}. {keep}To have both, give this one another "
        "name (--fingerprint NAME with --network or --weights, or another [fingerprints.NAME] in a file); to replace "
        "them: --replace-fingerprint"
    )


def _flag(arguments: argparse.Namespace, name: str, change: Change) -> str:
    """What sets the setting to what it was."""
    by_flags = any(given.override.startswith(f"fingerprints.{name}.") for given in arguments.settings_by_flag)
    if by_flags and change.key in ("network", "preprocessing"):
        return f"--{change.key} {change.before}"
    return _set(f"fingerprints.{name}.{change.key}", change.before)


def _other_versions(before: Mapping[str, str]) -> str:
    """``torch 2.11 then, 2.12 now``, of all programs that compute vectors."""
    now = library_versions()
    changed = [program for program in now if before.get(program, now[program]) != now[program]]
    return ", ".join(f"{program} {before[program]} then, {now[program]} now" for program in changed)
