"""How much is worked on at a time, and how much may wait for it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from image_similarity.serve.refusals import Refused


class Places:
    """``working`` requests are worked on at a time, and ``waiting`` more may wait. Others are refused at once."""

    def __init__(self, working: int, waiting: int):
        self._most, self._here = working + waiting, 0
        self._working = asyncio.Semaphore(working)

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """A place to wait in: a request holds it to its end. Raises `Refused` if all are taken."""
        if self._here >= self._most:
            raise Refused(503, "busy: ask again in a second", "busy", {"Retry-After": "1"})
        self._here += 1
        try:
            yield
        finally:
            self._here -= 1

    def at_work(self) -> asyncio.Semaphore:
        """A context. Enter it with a place of `admitted`."""
        return self._working
