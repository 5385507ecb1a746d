"""Vectors that are made in another way are not mixed with the published ones of the same name: the message says what
differs, and what can be done.
"""

import argparse
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from image_similarity.errors import JobFailed, WrongInput
from image_similarity.jobs.job import library_versions
from image_similarity.settings import FingerprintSettings
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
    value = change.before if isinstance(change.before, str) else json.dumps(change.before)
    return f"--set {shlex.quote(f'fingerprints.{name}.{change.key}={value}')}"


def _other_versions(before: Mapping[str, str]) -> str:
    """``torch 2.11 then, 2.12 now``, of all programs that compute vectors."""
    now = library_versions()
    changed = [program for program in now if before.get(program, now[program]) != now[program]]
    return ", ".join(f"{program} {before[program]} then, {now[program]} now" for program in changed)
