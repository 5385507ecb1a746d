"""What goes wrong while a page is open in Chromium, though perhaps nobody sees it."""

from playwright.sync_api import Page, Request

LEFT = "net::ERR_ABORTED"
"""What Chromium says of a request that still waited when its page was left, for its icon, say. Nothing was missing."""


def watched(page: Page, *places: str) -> list[str]:
    """The complaints about ``page`` from now on, in a list that grows.

    They are messages on its console, errors, requests of what is below none of the addresses ``places``, and requests
    that fail.
    """
    complaints: list[str] = []

    def asked(request: Request) -> None:
        if not request.url.startswith(places):
            complaints.append(f"asked of another place: {request.url}")

    def failed(request: Request) -> None:
        if request.failure != LEFT:
            complaints.append(f"failed: {request.url} {request.failure}")

    page.on("console", lambda message: complaints.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    page.on("request", asked)
    page.on("requestfailed", failed)
    return complaints
