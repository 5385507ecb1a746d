"""The texts of an image on pages, from its id and attributes. They break no page, whatever the attributes contain."""

import posixpath
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from image_similarity.redaction import redacted

LONGEST_TEXT = 300
LONGEST_LABEL = 60
"""Characters of a label of many images. A longer value describes one image."""
LONGEST_ON_CARD = 48
"""Characters of a text below a small picture: three lines of a narrow card."""
_BEGINNING = 28
"""So many of them are of its beginning, the others of its end, where numbered titles and files differ."""
_LONGEST_WORD = 8
"""Longer words may be broken: a narrow card has room for about a dozen letters."""
_MOST_ALT_TEXTS, _LONGEST_ALT_TEXT = 3, 60
# HTML allows no control characters and no non-characters, not even as character references.
_NON_CHARACTERS = "\ufdd0-\ufdef" + "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
_NOT_FOR_PAGES = re.compile(f"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f{_NON_CHARACTERS}]")
_LONG_WORD = re.compile(rf"\S{{{_LONGEST_WORD + 1}}}")
_PLACES = re.compile(r"(?<=[^/\\_\s][/\\_])(?=[^/\\_])|(?<=[^\W\d_])(?=\d)|(?<=[^\s.])(?=\.\w{1,5}$)")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\S+\Z")
_CAMERA_WORDS = ("dscn", "dscf", "gopr", "imag", "image", "pict", "picture", "photo", "sany", "scan", "screenshot")
_LONGEST_PREFIX = 3
"""Letters of a name that say nothing beside digits, as in DSC_0001 or p12."""


@dataclass(frozen=True)
class Verdict:
    """What is said of a query that is the same picture as an image, or may be, or is not."""

    answer: str
    """Whether the two are the same, in a word."""
    of_image: str
    """The same below an image on a page; empty: nothing is said."""
    of_query: str
    """What a query is whose best verdict this is."""
    in_a_sentence: str
    """The same in a sentence, behind `is` or `are`."""
    meaning: str


VERDICTS = {
    "yes": Verdict(
        "yes",
        "the same picture",
        "already there",
        "there already",
        "the file is there byte by byte; or it is the same picture again (another size, another compression, a crop, a "
        "mirrored copy), as vectors and pictures both say",
    ),
    "near": Verdict(
        "perhaps",
        "perhaps the same picture",
        "near",
        "near to one that is there",
        "as near as copies are, but the pictures differ, or are not known: look at it",
    ),
    "no": Verdict("no", "", "new", "new", "nothing says that it is the same picture"),
}
"""Verdict of tables -> its words on pages, in notebooks and on terminals. The best one comes first."""


@dataclass(frozen=True)
class Caption:
    title: str
    subtitle: str
    """The line below the title; may be empty."""
    alt: str
    """The alternative text of the picture."""


def of_verdict(verdict: str | None) -> str:
    """What is said of ``verdict`` below an image; empty where there is none, or nothing to say."""
    return VERDICTS[verdict].of_image if verdict in VERDICTS else ""


def best(verdicts: Iterable[str | None]) -> str | None:
    """The best of the verdicts on the images of a query; None where nothing was judged."""
    given = set(verdicts)
    return next((verdict for verdict in VERDICTS if verdict in given), None)


def of_image(
    image_id: str,
    attributes: Mapping[str, str],
    title_attributes: tuple[str, ...],
    subtitle_attributes: tuple[str, ...],
) -> Caption:
    """Title, subtitle and alternative text. Without any of ``title_attributes`` the title is the file's name.

    A title that is only a number, or a name that a camera gave, is followed by the name of the image's folder.
    """
    shown = {name: clean(value) for name, value in attributes.items()}
    given, stem = first_of(shown, title_attributes), clean(_stem(image_id))
    title = given or stem or clean(image_id)
    if _is_number(given) if given else _is_numbered(stem):
        title = ", ".join(filter(None, (title, clean(_folder(image_id)))))
    title = title[:LONGEST_TEXT]
    subtitle = first_of(shown, subtitle_attributes)
    return Caption(title, subtitle[:LONGEST_TEXT] if subtitle != title else "", _alt(title, subtitle, shown))


def clean(text: str) -> str:
    """``text`` on one line, without characters that HTML does not allow, and without secrets of addresses."""
    return redacted(_NOT_FOR_PAGES.sub("\ufffd", " ".join(text.split())))


def of_value(attribute: str, value: str) -> str:
    """The label of images with this ``value``. Numbers say of what they are: ``year: 1890``."""
    return clean(value if any(map(str.isalpha, value)) else f"{attribute}: {value}")


def short(text: str) -> str:
    """``text``, or its beginning and its end with an ellipsis between them, if it is longer than `LONGEST_ON_CARD`."""
    if len(text) <= LONGEST_ON_CARD:
        return text
    end = text[_BEGINNING + 1 - LONGEST_ON_CARD :]
    while unicodedata.category(end[:1] or " ")[0] == "M":  # an accent whose letter was cut off
        end = end[1:]
    return f"{text[:_BEGINNING].rstrip()}…{end.lstrip()}"


def parts(text: str) -> list[str]:
    """``text`` in pieces, between which a line may end: long words are divided where names of files and places are.

    That is after ``/ \\ _``, between a letter and a digit, and before the ending of a file's name, which stays whole.
    """
    return _PLACES.split(text) if _LONG_WORD.search(text) else [text]


def location(uri: str) -> str:
    """``uri`` as it can be copied: spaces stay, and secrets of addresses do not."""
    return redacted(_NOT_FOR_PAGES.sub("\ufffd", uri.replace("\r", "\ufffd")))


def link(value: str) -> str | None:
    """``value`` if it is an http(s) address without spaces, which a page may link to; None otherwise.

    None also for an address with a password or a query: that may be a signature, and without it leads elsewhere.
    """
    is_address = re.match(r"https?://[^\s<>\"']+\Z", value, re.IGNORECASE)
    return value if is_address and redacted(value) == value else None


def first_of(attributes: Mapping[str, str], names: tuple[str, ...]) -> str:
    """The first non-empty one of the attributes ``names``, whatever their case; empty if there is none."""
    by_name = {name.lower(): value for name, value in attributes.items()}
    return next((by_name[name.lower()] for name in names if by_name.get(name.lower())), "")


def _stem(image_id: str) -> str:
    return posixpath.splitext(image_id.rpartition("/")[2])[0]


def _folder(image_id: str) -> str:
    """The name of the folder that contains the image; empty if its id names none."""
    name = posixpath.basename(posixpath.dirname(image_id))
    return "" if name in (".", "..") else name


def _is_number(text: str) -> bool:
    """Whether ``text`` has digits and no letters."""
    return any(map(str.isdigit, text)) and not any(map(str.isalpha, text))


def _is_numbered(stem: str) -> bool:
    """Whether a file's name is a number, alone or with what cameras and scanners put beside it."""
    words = re.findall(r"[^\W\d_]+", stem.lower())
    says_nothing = all(len(word) <= _LONGEST_PREFIX or word in _CAMERA_WORDS for word in words)
    return says_nothing and any(map(str.isdigit, stem))


def _alt(title: str, subtitle: str, attributes: Mapping[str, str]) -> str:
    """The title and up to two other short attributes that contain letters; no addresses, paths or file names."""
    texts = [title]
    for value in (subtitle, *attributes.values()):
        is_repeated = any(value.lower() in text.lower() for text in texts)
        if (
            not is_repeated
            and len(value) <= _LONGEST_ALT_TEXT
            and any(map(str.isalpha, value))
            and not _is_technical(value)
        ):
            texts.append(value)
    return ", ".join(texts[:_MOST_ALT_TEXTS])


def _is_technical(value: str) -> bool:
    return is_address(value) or "/" in value or bool(re.search(r"\.\w{2,5}$", value)) or value[:1] in "[{"


def is_address(value: str) -> bool:
    return bool(_ADDRESS.match(value))
