"""The names of the classes that a fingerprint's network tells apart, by its settings."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from image_similarity.errors import Unreadable, WrongInput, counted, listed, no_such_file
from image_similarity.settings import HttpSettings
from image_similarity.settings.fingerprints import IMAGENET
from image_similarity.stages.embeddings import local_weights, weights_cache
from image_similarity.storage import blobs, uris

IMAGENET_CLASSES = 1000
_COLUMNS = ("class", "name", "label")
"""The column of a CSV file that is taken, the first of these that it has."""
_MOST_BYTES = 64_000_000


def check(classes: str | None) -> None:
    """Raises ``WrongInput`` if ``classes`` is a file on this machine and no list of classes. Needs no torch."""
    if classes is not None and classes != IMAGENET and uris.is_local(classes):
        read(classes)


def of_weights(classes: str | None, count: int, cache: Path, http: HttpSettings = HttpSettings()) -> tuple[str, ...]:
    """The ``count`` names that ``classes`` says: ``imagenet``, or a file.

    Raises ``WrongInput`` for another number of names, for ImageNet's names in another order, and as `read`
    does. ``classes``: None stands for ImageNet's.
    """
    if classes is None or classes == IMAGENET:
        names, origin = imagenet(), "ImageNet"
    elif uris.is_local(classes):
        names, origin = read(classes), f"the file {classes}"
    else:
        try:
            copy, _ = weights_cache.copy_of(classes, cache, http, pinned=False)
        except (OSError, Unreadable, ValueError) as error:
            raise WrongInput(f"classes {classes}: cannot be read: {error}") from None
        names, origin = read(str(copy)), f"the file {classes}"
    if len(names) != count:
        raise WrongInput(
            f"classes: {origin} has {counted(len(names), 'class')}, but the weights tell {count:,} apart: name each of "
            "them, in the order of the logits"
        )
    _check_order(names, origin)
    return names


def _check_order(names: Sequence[str], origin: str) -> None:
    """Raises ``WrongInput`` if ``names`` are ImageNet's in another order than that of the logits."""
    if len(names) != IMAGENET_CLASSES:
        return
    given, known = ([name.casefold().replace("_", " ") for name in of] for of in (names, imagenet()))
    if given == known or sorted(given) != sorted(known):
        return
    place = next(number for number, (one, other) in enumerate(zip(given, known)) if one != other)
    raise WrongInput(
        f"classes: {origin} has ImageNet's names in another order than that of torchvision's weights: class "
        f"{place + 1:,} is {names[place]!r}, not {imagenet()[place]!r}; classes = imagenet names them in order"
    )


def imagenet() -> tuple[str, ...]:
    """The names of ImageNet's 1,000 classes, in the order of torchvision's weights."""
    from torchvision.models._meta import _IMAGENET_CATEGORIES  # importing torchvision takes seconds

    return tuple(_IMAGENET_CATEGORIES)


def read(file: str) -> tuple[str, ...]:
    """The classes in ``file``, in its order: one a line, or of a CSV file (``.csv``) the column ``class``, ``name`` or
    ``label``, or the only one.

    Raises ``WrongInput`` for a file that is not there, is no text, has a line without a name, or no line.
    """
    path = uris.absolute(file)
    if not local_weights.is_there(path):
        raise WrongInput(f"classes: {no_such_file(path)}")
    content = blobs.read(path, _MOST_BYTES)
    if len(content) > _MOST_BYTES:
        raise WrongInput(f"classes {file}: more than {_MOST_BYTES:,} bytes, which is no list of classes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise WrongInput(f"classes {file}: this is no text in UTF-8") from None
    names = _column(file, text) if path.lower().endswith(".csv") else [line.strip() for line in text.splitlines()]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise WrongInput(f"classes {file}: there is no class in it")
    if "" in names:
        raise WrongInput(f"classes {file}: class {names.index('') + 1:,} has no name")
    return tuple(names)


def _column(file: str, text: str) -> list[str]:
    rows = csv.DictReader(io.StringIO(text, newline=""))
    columns = [column for column in rows.fieldnames or [] if column]
    named = [column for column in _COLUMNS if column in columns] or (columns if len(columns) == 1 else [])
    if not named:
        raise WrongInput(f"classes {file}: which column has the names? Call it {_COLUMNS[0]}; it has {listed(columns)}")
    return [(row[named[0]] or "").strip() for row in rows]
