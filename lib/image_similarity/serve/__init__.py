"""The page on this machine that answers what looks like a picture: ``image-similarity serve``.

A request passes these modules, from the outside to the inside:

    server      the socket, how long a client may take for a request, signals
    guard       who may ask: host, token, origin; the headers of every answer; errors as one line or a page
    app         what is asked at which address
    uploads     bodies of a bounded size, in a bounded time
    questions   what is asked: a picture, an address, a vector or an image, and how many answers
    asking      the answer, by the newest published state
    pictures    small files of pictures, from the gallery or made of the originals
    pages       templates

``main`` is the subcommand. Nothing else of the package needs Starlette and uvicorn, which are the extra ``serve``.
Nothing is kept of what was asked.
"""
