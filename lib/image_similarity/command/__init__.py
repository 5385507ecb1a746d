"""``image-similarity``, the installed command: `search`, `serve`, and every job as a subcommand.

`main` finds the subcommand and imports it alone, so that help and a misspelt name are answered at once.
``python -m image_similarity.command`` is the same.
"""
