"""``image-similarity``, the installed command."""
