"""Follows every link of a gallery on disk, without a browser."""

import re
import urllib.parse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

from image_similarity.pages import maps


@dataclass
class Page(HTMLParser):
    """What one page refers to, and what it says."""

    path: Path
    references: list[tuple[str, str, str]] = field(default_factory=list)
    """element, attribute, value"""
    handlers: list[str] = field(default_factory=list)
    """Attributes and elements that would run a script of the page's own."""
    images: list[dict[str, str | None]] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.feed(self.path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name.startswith("on") or name == "style":
                self.handlers.append(f"<{tag} {name}={value}>")
            if name in ("href", "src", "action", "srcset"):
                self.references.append((tag, name, value or ""))
        if tag == "script" and "src" not in dict(attrs) or tag in ("style", "iframe", "object", "embed", "base"):
            self.handlers.append(f"<{tag}>")
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


@dataclass
class Crawl:
    pages: dict[Path, Page] = field(default_factory=dict)
    outside: list[tuple[str, str]] = field(default_factory=list)
    """element and address of everything that is not in the gallery."""
    dead: list[str] = field(default_factory=list)
    files: set[Path] = field(default_factory=set)
    """All files that pages refer to."""


def pages_in(gallery: Path) -> Iterator[Path]:
    """All pages in the folder ``gallery``, whether or not another one leads to them."""
    return (path for path in gallery.rglob("*.html") if path.name != maps.SHELL)  # which is the page of no address


def crawl(gallery: Path, starts: Iterable[Path] = ()) -> Crawl:
    """Everything that can be reached from the front page, and from the pages ``starts``."""
    found, waiting = Crawl(), [path.resolve() for path in (gallery / "index.html", *starts)]
    while waiting:
        path = waiting.pop()
        if path in found.pages:
            continue
        page = found.pages[path] = Page(path)
        for element, _, value in page.references:
            if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:|//", value):
                found.outside.append((element, value))
                continue
            target = (
                (path.parent / urllib.parse.unquote(urllib.parse.urlsplit(value).path)).resolve()
                if value[:1] != "#"
                else path
            )
            if not target.is_file() or not target.is_relative_to(gallery.resolve()):
                found.dead.append(f"{path.relative_to(gallery.resolve())}: {value}")
                continue
            found.files.add(target)
            if target.suffix == ".html":
                waiting.append(target)
    return found
