"""Notebooks as they are in the repository: without outputs, in one form, and without code of their own."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tools import notebooks

ROOT = Path(__file__).resolve().parents[2]
BOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
DEFINING = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


def cells(book: Path, kind: str) -> list[str]:
    content = json.loads(book.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == kind]


def python(source: str) -> str:
    """``source`` without the commands of a shell in it."""
    return re.sub(r"^!.*$", "pass", source, flags=re.MULTILINE)


def test_there_are_five_and_the_page_has_them_all() -> None:
    page = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    assert [book.name for book in BOOKS] == re.findall(r"\]\(([\w-]+\.ipynb)\)", page) and len(BOOKS) == 5


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
class TestEach:
    def test_it_is_stripped(self, book: Path) -> None:
        """`.venv/bin/python tools/notebooks.py` does it, and so does `make format`."""
        assert book.read_text(encoding="utf-8") == notebooks.stripped(book.read_text(encoding="utf-8"))

    def test_it_defines_nothing(self, book: Path) -> None:
        for source in cells(book, "code"):
            assert not [node for node in ast.walk(ast.parse(python(source))) if isinstance(node, DEFINING)], source

    def test_it_calls_no_more_than_what_is_public(self, book: Path) -> None:
        for source in cells(book, "code"):
            assert not re.search(r"(?:import|from) image_similarity(?! as ims)|\._|\bims\.(?!open\b)", source), source

    def test_its_first_cell_opens_the_warehouse_that_is_named(self, book: Path) -> None:
        first = cells(book, "code")[0]
        assert first == cells(BOOKS[0], "code")[0]
        assert 'os.environ.get("IMAGE_SIMILARITY_WAREHOUSE", "../demo/samples-warehouse")' in first

    def test_it_reads_like_a_page(self, book: Path) -> None:
        """A heading first, and one idea a cell."""
        texts, codes = cells(book, "markdown"), cells(book, "code")
        assert texts[0].startswith("# ") and len(texts) > 4
        assert max(len(code.splitlines()) for code in codes) <= 8


DIRTY: dict[str, Any] = {
    "cells": [
        {
            "cell_type": "code",
            "execution_count": 3,
            "id": "a",
            "metadata": {"scrolled": True},
            "outputs": [{"output_type": "stream", "name": "stdout", "text": ["1\n"]}],
            "source": "print(1)\nprint(2)",
        },
        {"cell_type": "markdown", "id": "b", "metadata": {"tags": ["x"]}, "source": ["# Ä\n"], "attachments": {}},
    ],
    "metadata": {"kernelspec": {"display_name": "mine", "name": "mine"}, "widgets": {}},
    "nbformat": 4,
    "nbformat_minor": 5,
}


def test_what_was_run_is_stripped() -> None:
    clean = json.loads(notebooks.stripped(json.dumps(DIRTY)))
    assert clean["cells"] == [
        {
            "cell_type": "code",
            "execution_count": None,
            "id": "a",
            "metadata": {},
            "outputs": [],
            "source": ["print(1)\n", "print(2)"],
        },
        {"cell_type": "markdown", "id": "b", "metadata": {}, "source": ["# Ä\n"]},
    ]
    assert clean["metadata"] == notebooks.METADATA
    assert "Ä" in notebooks.stripped(json.dumps(DIRTY))


def test_the_tool_strips_the_files_that_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dirty, clean = tmp_path / "dirty.ipynb", tmp_path / "clean.ipynb"
    dirty.write_text(json.dumps(DIRTY))
    clean.write_text(notebooks.stripped(json.dumps(DIRTY)))
    before = clean.stat().st_mtime_ns
    assert notebooks.main([str(dirty), str(clean)]) == 0
    assert capsys.readouterr().out == f"stripped {dirty}\n"
    assert dirty.read_text() == clean.read_text() and clean.stat().st_mtime_ns == before


def test_what_is_no_notebook_stays_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in ("no JSON", "[]", '{"cells": 3}', '{"worksheets": []}'):
        file = tmp_path / "x.ipynb"
        file.write_text(content)
        assert notebooks.main([str(file)]) == 2
        assert file.read_text() == content and str(file) in capsys.readouterr().err
    assert notebooks.main([str(tmp_path / "none.ipynb")]) == 2
