"""What goes wrong while a page is open in Chromium, though perhaps nobody sees it."""

from playwright.sync_api import Page, Request

LEFT = "net::ERR_ABORTED"
"""What Chromium says of a request that still waited when its page was left, for its icon, say. Nothing was missing."""


def watched(page: Page, place: str) -> list[str]:
    """The complaints about ``page`` from now on, in a list that grows.

    They are messages on its console, errors, requests of other places than those below the address ``place``, and
    requests that fail.
    """
    complaints: list[str] = []

    def asked(request: Request) -> None:
        if not request.url.startswith(place):
            complaints.append(f"asked of another place: {request.url}")

    def failed(request: Request) -> None:
        if request.failure != LEFT:
            complaints.append(f"failed: {request.url} {request.failure}")

    page.on("console", lambda message: complaints.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    page.on("request", asked)
    page.on("requestfailed", failed)
    return complaints
