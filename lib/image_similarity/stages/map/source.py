"""The rendered gallery that a map is made of, and put into."""

import html
import json
import re
from dataclasses import dataclass

from image_similarity.errors import JobFailed, WrongInput
from image_similarity.pages import maps
from image_similarity.pages.site import Site

_TITLE = re.compile(r"<title>Map – (.*?)</title>", re.DOTALL)


@dataclass(frozen=True)
class Source:
    """One rendering of a gallery, and the map that the gallery had when the job began."""

    site: Site
    rendering: str
    earlier: str | None
    """The run of the map that is shown; None if there is none."""

    @property
    def cards(self) -> str:
        """The folder of the images' cards."""
        return f"{self.site.folder(self.rendering)}/{maps.CARDS}"

    def shell(self) -> str:
        """The page without the map. Raises ``JobFailed`` if it is gone."""
        content = self.site.files.read(f"{self.site.folder(self.rendering)}/{maps.SHELL}")
        if content is None:
            raise JobFailed(_rendered_again(self.site))
        return content.decode()

    def title(self) -> str:
        """The title of the gallery's pages."""
        named = _TITLE.search(self.shell())
        return html.unescape(named[1]) if named else ""

    def shows(self, run: str) -> bool:
        """Whether the gallery shows the map of ``run`` now."""
        return shown_map(self.site) == run

    def check_unchanged(self) -> None:
        """Raises ``JobFailed`` if the gallery was rendered since, or got another map. Call it while it is locked."""
        if newest_rendering(self.site) != self.rendering:
            raise JobFailed(_rendered_again(self.site))
        if shown_map(self.site) != self.earlier:
            raise JobFailed(f"another job made a map of {self.site.uri} meanwhile: it stays; run this one again")


def source(site: Site, command: str) -> Source:
    """The newest rendering of ``site``.

    ``command``: what renders it, for messages. Raises ``WrongInput`` if it was not rendered, or by an earlier version.
    """
    rendering = newest_rendering(site)
    if rendering is None:
        raise WrongInput(f"--gallery {site.uri}: no gallery is rendered there: run {command} first")
    names = site.files.entries(site.folder(rendering))
    if maps.CARDS not in names or maps.SHELL not in names:
        raise WrongInput(
            f"--gallery {site.uri}: it was rendered by an earlier version, which left nothing to make a map of: run "
            f"{command} again"
        )
    return Source(site, rendering, shown_map(site))


def newest_rendering(site: Site) -> str | None:
    """The rendering that visitors see; None if there is none."""
    content = site.files.read(f"{site.uri}/{site.kind}.json")
    renderings = json.loads(content)["renderings"] if content is not None else []
    return str(renderings[0]) if renderings else None


def shown_map(site: Site) -> str | None:
    """The run of the map that visitors see; None if there is none."""
    content = site.files.read(f"{site.uri}/{maps.POINTER}")
    return str(json.loads(content)["run"]) if content is not None else None


def _rendered_again(site: Site) -> str:
    return f"another job rendered {site.uri} while this one ran: run render_map again"
