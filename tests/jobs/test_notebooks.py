"""Notebooks, run from the first cell to the last on a small published warehouse, as somebody runs them."""

import csv
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from image_similarity.warehouse.snapshot import POINTER
from processes import ROOT, finish
from tools import samples

BOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
READING = ("1-first-look", "3-near-duplicates", "5-search")
"""Notebooks that say that they change nothing."""
FAMILIES = ("sunset", "tree", "mondrian")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty small pictures with titles, labels and edited copies: an untrained network, neighbours, groups."""
    folder = tmp_path_factory.mktemp("a collection")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(samples, "SIZES", ((160, 120), (120, 160)))
        rows = [row for number, label in enumerate(FAMILIES) for row in samples.draw_family(folder, 0, number, label)]
    with (folder / "list.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("uri", "title", "label", "edit_of"), *rows])
    finish("run_pipeline", folder / "warehouse", "--images", folder / "list.csv")
    return folder / "warehouse"


@pytest.fixture
def warehouse(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "my warehouse"))


@pytest.fixture
def of_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home in which nobody has configured Jupyter, IPython or a cache, and the installed command on the path."""
    with tempfile.TemporaryDirectory() as short:  # the paths of sockets may have some hundred characters at most
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "XDG_CACHE_HOME"):
            monkeypatch.setenv(name, str(Path(short) / name.lower()))
        monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")  # the kernel of this environment, whichever others there are
        command = Path(short) / "bin" / "image-similarity"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m image_similarity.command "$@"\n')
        command.chmod(0o755)
        monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("PYTHONPATH", str(ROOT / "lib"))
        yield Path(short)


def run(book: Path, warehouse: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """All outputs. A command of a shell that fails is an error here; in a notebook it is only printed."""
    monkeypatch.setenv("IMAGE_SIMILARITY_WAREHOUSE", str(warehouse))
    content = nbformat.read(book, as_version=4)
    for cell in content.cells:
        if cell.cell_type == "code" and cell.source.startswith("!"):
            cell.source = "\n".join(f"{line}\nassert _exit_code == 0" for line in cell.source.splitlines())
    client = NotebookClient(content, timeout=300, resources={"metadata": {"path": str(book.parent)}})
    kernel = client.create_kernel_manager()
    # Sockets in a folder: free ports that one test chooses another may have taken before they are bound.
    kernel.transport, kernel.connection_file = "ipc", str(home / "kernel.json")
    client.execute()
    return [output for cell in content.cells if cell.cell_type == "code" for output in cell.outputs]


def test_they_are_all_here() -> None:
    assert len(BOOKS) == 5 and {*READING} < {book.stem for book in BOOKS}


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_it_runs_and_shows_pictures(
    book: Path, warehouse: Path, of_nobody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (warehouse / POINTER).read_bytes()
    outputs = run(book, warehouse, of_nobody, monkeypatch)
    html = "".join(output.data.get("text/html", "") for output in outputs if "data" in output)
    assert html.count("data:image/webp;base64,") >= 12
    assert "no picture:" not in html and "Traceback" not in html
    assert [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"] == []
    assert ((warehouse / POINTER).read_bytes() == before) == (book.stem in READING)
