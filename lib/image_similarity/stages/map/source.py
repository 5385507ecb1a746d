"""The rendered gallery that a map is made of, and put into."""

import html
import re
from dataclasses import dataclass

import pyarrow as pa

from image_similarity.errors import JobFailed, WrongInput
from image_similarity.pages import maps
from image_similarity.pages.site import Site

_TITLE = re.compile(r"<title>Map – (.*?)</title>", re.DOTALL)


@dataclass(frozen=True)
class Source:
    """One rendering of a gallery, and the map that the gallery had when the job began."""

    site: Site
    rendering: str
    shell: str
    """The page without the map."""
    earlier: str | None
    """The run of the map that is shown; None if there is none."""
    command: str
    """What renders the gallery, for messages."""

    def cards(self) -> pa.Table:
        """The images' cards: `shown.COLUMNS`. Raises ``WrongInput`` if they are damaged."""
        from image_similarity.stages.map import shown  # an early check does not wait for it

        folder = f"{self.site.folder(self.rendering)}/{maps.CARDS}"
        try:
            return shown.read_cards(self.site.files, folder)
        except (OSError, ValueError, pa.ArrowException):
            raise WrongInput(_damaged(self.site, folder, self.command)) from None

    def title(self) -> str:
        """The title of the gallery's pages."""
        named = _TITLE.search(self.shell)
        return html.unescape(named[1]) if named else ""

    def shows(self, run: str) -> bool:
        """Whether the gallery shows the map of ``run`` now."""
        return _shown_map(self.site) == run

    def check_unchanged(self) -> None:
        """Raises ``JobFailed`` if the gallery was rendered since, or got another map.

        Call it while it is locked, or to learn why a file was gone.
        """
        if self.site.newest() != self.rendering:
            raise JobFailed(f"another job rendered {self.site.uri} while this one ran: run render_map again")
        if _shown_map(self.site) != self.earlier:
            raise JobFailed(f"another job made a map of {self.site.uri} meanwhile: it stays; run this one again")


def source(site: Site, command: str) -> Source:
    """The newest rendering of ``site``, and its map.

    They are read under the site's lock: the job that puts a map in place removes the folders of all others before it
    lets go, so that a job which knows the new map works in a folder that stays.

    ``command``: what renders it, for messages. Raises ``WrongInput`` if it was not rendered, or by an earlier version,
    or if the page that it left for the map is damaged.
    """
    if not site.renderings:
        raise WrongInput(_not_rendered(site, command))
    with site.locked():
        rendering = site.newest()
        if rendering is None:
            raise WrongInput(_not_rendered(site, command))
        names = site.files.entries(site.folder(rendering))
        if maps.CARDS not in names or maps.SHELL not in names:
            raise WrongInput(
                f"--gallery {site.uri}: it was rendered by an earlier version, which left nothing to make a map of: "
                f"run {command} again"
            )
        file = f"{site.folder(rendering)}/{maps.SHELL}"
        shell = maps.shell(site.files.read(file))
        if shell is None:
            raise WrongInput(_damaged(site, file, command))
        return Source(site, rendering, shell, _shown_map(site), command)


def _shown_map(site: Site) -> str | None:
    """The run of the map that visitors see; None if there is none."""
    shown_now = site.map()
    return shown_now.run if shown_now else None


def _not_rendered(site: Site, command: str) -> str:
    return f"--gallery {site.uri}: no gallery is rendered there: run {command} first"


def _damaged(site: Site, path: str, command: str) -> str:
    return f"--gallery {site.uri}: {path} is damaged: run {command} again"
