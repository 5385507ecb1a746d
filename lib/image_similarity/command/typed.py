"""What people type to ask a collection: jobs say it when they are done."""

import os
import shlex
import sys

from image_similarity.command.catalogue import NAME, SEARCH
from image_similarity.storage import filesystems, uris
from image_similarity.warehouse.defaults import DEFAULT_FINGERPRINT, default_of
from image_similarity.warehouse.snapshot import Snapshot


def search(published: Snapshot, fingerprint: str, metric: str) -> str | None:
    """A shell command that asks ``published`` about a FILE by these neighbours; None if a program cannot open it.

    A fingerprint and a metric that are the defaults are left out.
    """
    from image_similarity.collection import defaults  # which imports numpy, and help should not wait for that

    uri = uris.for_readers(published.uri)
    if not uris.is_local(uri) and uris.scheme_of(uri) not in filesystems.OBJECT_STORES:
        return None
    words = [*_program(), SEARCH, "FILE", "--warehouse", uri]
    if default_of(defaults.fingerprints_of(published), DEFAULT_FINGERPRINT) != fingerprint:
        words += ["--fingerprint", fingerprint]
    if defaults.metric_of(published, fingerprint, None) != metric:
        words += ["--metric", metric]
    return shlex.join(words)


def _program() -> list[str]:
    """The installed command of this environment, or the module where it is not installed."""
    installed = os.path.join(os.path.dirname(sys.executable), NAME)
    return [installed] if os.access(installed, os.X_OK) else [sys.executable, "-m", "image_similarity.command"]
