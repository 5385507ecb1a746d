"""Files over HTTP, each after a delay, from one process that takes little of the processor. ``python slow_server.py FOLDER DELAY``

Prints its port, then serves until it is killed; connections stay open between requests.
"""

import asyncio
import functools
import sys
import urllib.parse
from pathlib import Path


async def serve(files: dict[str, bytes], delay: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while request := await reader.readuntil(b"\r\n\r\n"):
            method, path, _ = request.split(b" ", 2)
            await asyncio.sleep(delay)
            content = files.get(urllib.parse.unquote(path.decode()).lstrip("/"))
            status, body = ("200 OK", content) if content is not None else ("404 Not Found", b"")
            head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nETag: \"{len(body)}\"\r\n\r\n".encode()
            writer.write(head + (body if method == b"GET" else b""))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main(folder: Path, delay: float) -> None:
    files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    server = await asyncio.start_server(functools.partial(serve, files, delay), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), float(sys.argv[2])))
