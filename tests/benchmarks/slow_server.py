"""Files over HTTP, each after a delay, from one process that takes little of the processor. ``python slow_server.py
FOLDER DELAY``

Prints its port, then serves until it is killed; connections stay open between requests. Reading clients of S3 take it
for a store whose only bucket is the first part of the path: they ask for the size by HEAD, then for ranges.
"""

import asyncio
import functools
import re
import sys
import urllib.parse
from pathlib import Path

BUCKET = "pictures/"
DATED = "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n"


async def serve(
    files: dict[str, bytes], delay: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    try:
        while request := await reader.readuntil(b"\r\n\r\n"):
            method, path, rest = request.split(b" ", 2)
            await asyncio.sleep(delay)
            name = urllib.parse.unquote(path.decode()).lstrip("/").removeprefix(BUCKET)
            status, body, more = _answer(files.get(name), rest.lower())
            head = f'HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nETag: "{name}"\r\n{more}\r\n'.encode()
            writer.write(head + (body if method == b"GET" else b""))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def _answer(content: bytes | None, headers: bytes) -> tuple[str, bytes, str]:
    """Status, body and further headers."""
    if content is None:
        return "404 Not Found", b"", ""
    wanted = re.search(rb"\r\nrange: bytes=(\d+)-(\d*)", headers)
    if wanted is None:
        return "200 OK", content, DATED
    first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
    return (
        "206 Partial Content",
        content[first : last + 1],
        f"Content-Range: bytes {first}-{last}/{len(content)}\r\n{DATED}",
    )


async def main(folder: Path, delay: float) -> None:
    files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    server = await asyncio.start_server(functools.partial(serve, files, delay), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), float(sys.argv[2])))
