"""Which fingerprint and metric are meant where none is named. `image_similarity.warehouse.defaults` has the rule."""

from collections.abc import Iterable

from image_similarity.errors import WrongInput, did_you_mean, listed
from image_similarity.warehouse.defaults import DEFAULT_FINGERPRINT, DEFAULT_METRIC, default_first, default_of
from image_similarity.warehouse.snapshot import Snapshot

METRICS = ("cosine", "correlation", "euclidean")
"""Those of `image_similarity.knn.distances`, which takes most of a second to import."""


def fingerprints_of(snapshot: Snapshot) -> list[str]:
    """The published fingerprints, the default first: those with vectors, and vectors of one's own with neighbours."""
    compared = (slot.partition("/")[0] for slot in snapshot.slots("neighbours"))
    return default_first([*snapshot.slots("embeddings"), *compared])


def fingerprint_of(snapshot: Snapshot, fingerprint: str | None) -> str:
    """``fingerprint``, if it is published. None: the only one, else ``vgg16-fc2``.

    Raises ``WrongInput``, with those that are published, if it is not, or if None says nothing.
    """
    known = fingerprints_of(snapshot)
    if not known:
        raise WrongInput(f"{snapshot.uri}: no fingerprint is published yet: run embed_images first")
    return chosen(snapshot, "fingerprint", fingerprint, known)


def metrics_of(snapshot: Snapshot, fingerprint: str) -> list[str]:
    """The metrics by which neighbours of ``fingerprint`` are published, cosine first."""
    slots = (slot.partition("/") for slot in snapshot.slots("neighbours"))
    return default_first([metric for name, _, metric in slots if name == fingerprint], DEFAULT_METRIC)


def metric_of(snapshot: Snapshot, fingerprint: str, metric: str | None) -> str:
    """``metric``. None: the one by which neighbours of ``fingerprint`` are published; cosine if several are, or none.

    Raises ``WrongInput`` for a name that is no metric.
    """
    if metric is None:
        return default_of(metrics_of(snapshot, fingerprint), DEFAULT_METRIC) or DEFAULT_METRIC
    return one_of("metric", metric, METRICS)


def chosen(snapshot: Snapshot, what: str, name: str | None, known: Iterable[str], remedy: str = "") -> str:
    """``name``, if it is among the published ``known``. None: the only one, else the default.

    ``what``: ``fingerprint`` or ``metric``. Raises ``WrongInput``, with what is published, where nothing is chosen.
    ``remedy``: what helps where ``name`` is not published.
    """
    published = list(dict.fromkeys(known))
    if name is None:
        name = default_of(published, DEFAULT_METRIC if what == "metric" else DEFAULT_FINGERPRINT)
        if name is None:
            raise WrongInput(f"{snapshot.uri}: which {what}? Several are published: name one of {listed(published)}")
    if name not in published:
        raise WrongInput(not_published(snapshot.uri, what, name, published, remedy))
    return name


def one_of(what: str, name: str, known: Iterable[str]) -> str:
    """``name``, if it is one of ``known``. Raises ``WrongInput``, with near names, if it is not."""
    names = list(known)
    if name not in names:
        raise WrongInput(f"{what} {name!r} is none of {listed(names)}{did_you_mean(str(name), names)}")
    return name


def not_published(uri: str, what: str, name: str, known: Iterable[str], remedy: str = "") -> str:
    """The message for ``name``, which is not among the published ``known``. ``remedy``: what helps."""
    names = list(known)
    advice = did_you_mean(str(name), names, remedy)
    return f"{uri}: {what} {name!r} is not published (published: {listed(names)}){advice}"
