"""Bodies of requests: of a bounded size, in a bounded time, in memory alone."""

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from image_similarity.errors import counted
from image_similarity.serve.refusals import Refused

SECONDS = 30.0
"""Longest time for a body to arrive: 64 MiB at 2 MB a second."""
_FORM_BYTES = 1 << 16
"""What a form has beside its picture."""
_LONGEST_FIELD = 1 << 14


async def body(request: Request, most: int) -> bytes:
    """The body of ``request``. Raises `Refused` for more than ``most`` bytes, of which no more are read, and for one
    that takes longer than `SECONDS`.
    """
    content = io.BytesIO()  # it hands over what it holds; to join chunks would hold the file twice
    async with _in_time():
        async for chunk in _chunks(request, most):
            content.write(chunk)
    return content.getvalue()


@asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(SECONDS):
            yield
    except TimeoutError:
        raise Refused(408, f"the body took longer than {SECONDS:.0f} s") from None


async def _chunks(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced) > most:
        raise too_large(most)
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise too_large(most)
        yield chunk


def too_large(most: int) -> Refused:
    return Refused(
        413, f"the file is too large: {counted(most, 'byte is', 'bytes are')} allowed (--max-bytes)", "too_many_bytes"
    )


@dataclass(frozen=True)
class Form:
    picture: bytes
    """Empty if no file was chosen."""
    fields: list[tuple[str, str]]


class _InMemory(MultiPartParser):
    """Nothing of a form goes to the disk. The stream is bounded."""

    spool_max_size = 1 << 40


async def form(request: Request, most: int) -> Form:
    """The form in the body of ``request``: a file named ``picture``, and other fields. Raises as `body` does, and
    `Refused` for what is no such form.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise Refused(415, "the form should be multipart/form-data")
    chunks = _chunks(request, most + _FORM_BYTES)
    parser = _InMemory(request.headers, chunks, max_files=1, max_fields=16, max_part_size=_LONGEST_FIELD)
    try:
        async with _in_time():
            items = (await parser.parse()).multi_items()
    except MultiPartException as error:
        raise Refused(400, f"the form cannot be read: {error.message}") from None
    picture, fields = b"", []
    for name, value in items:
        if isinstance(value, str):
            fields.append((name, value))
        elif name == "picture":
            picture = await value.read()
            await value.close()
        else:
            raise Refused(400, "the form's file should be named picture")
    if len(picture) > most:
        raise too_large(most)
    return Form(picture, fields)
