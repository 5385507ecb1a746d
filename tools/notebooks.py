"""Strips notebooks: no outputs, no numbers of executions, no metadata of whoever opened them last.

``python tools/notebooks.py [FILE ...]`` rewrites those of the repository, or the files that are named. In that form
a change of a notebook is a change of its text, and no picture of a collection gets into the repository.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
"""The kernel is that of the environment in which Jupyter is started."""


def stripped(notebook: str) -> str:
    """``notebook`` (JSON, of format 4) without outputs, as Jupyter would write it. ``ValueError`` if it is none."""
    try:
        content = json.loads(notebook)
        cells = [_cell(cell) for cell in content["cells"]]
        form = {"nbformat": content["nbformat"], "nbformat_minor": content["nbformat_minor"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"this is no notebook of format 4 ({error!r})") from None
    return (
        json.dumps({"cells": cells, "metadata": METADATA, **form}, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    )


def _cell(cell: dict[str, Any]) -> dict[str, Any]:
    kept = {"cell_type": cell["cell_type"], "id": cell["id"], "metadata": {}}
    kept["source"] = "".join(cell["source"]).splitlines(keepends=True)
    return kept | {"execution_count": None, "outputs": []} if kept["cell_type"] == "code" else kept


def main(argv: Sequence[str] | None = None) -> int:
    """Strips the files that `argv` names; returns 0, or 2 if one of them is no notebook."""
    parser = argparse.ArgumentParser(description="Strip outputs from notebooks.")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="default: those in notebooks/")
    code = 0
    for file in parser.parse_args(argv).files or sorted(FOLDER.glob("*.ipynb")):
        try:
            before = file.read_text(encoding="utf-8")
            after = stripped(before)
        except (OSError, ValueError) as error:
            print(f"{file}: {error}", file=sys.stderr)
            code = 2
            continue
        if after != before:
            file.write_text(after, encoding="utf-8")
            print(f"stripped {file}")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
