"""Which way imports go. Nothing imports upwards, a stage imports no other stage, and what computes knows no Spark."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIB = ROOT / "lib" / "image_similarity"
MODULES = sorted(LIB.rglob("*.py"))

BELOW = {
    "errors": set(),
    "conf": set(),
    "redaction": set(),
    "reporting": {"errors", "redaction"},
    "storage": {"errors"},
    "settings": {"errors"},
    "warehouse": {"errors", "redaction", "reporting", "storage"},
    "runtime": {"errors", "reporting", "conf", "storage", "settings", "warehouse"},
    "imaging": {"errors"},
    "fingerprints": {"errors", "imaging"},
    "knn": {"errors"},
    "grouping": {"errors", "knn"},
    "tagging": {"errors"},
    "mapping": {"errors", "knn", "grouping"},
    "neighbour_graph": {"errors", "warehouse", "knn", "grouping"},
    "pages": {"errors", "redaction", "storage", "imaging"},
    "stages": {
        *("errors", "redaction", "reporting", "storage", "settings", "warehouse", "runtime"),
        *("imaging", "fingerprints", "knn", "grouping", "tagging", "mapping", "neighbour_graph", "pages"),
    },
}
BELOW["collection"] = {*BELOW["stages"], "stages"}
BELOW["serve"] = {*BELOW["collection"], "collection"}
"""Room -> the rooms that it may import. `jobs` and `command` may import all."""
TOP = {"jobs", "command"}

COMPUTING = ("imaging", "fingerprints", "knn", "grouping", "tagging", "mapping")
NO_SPARK = (*COMPUTING, "errors", "reporting", "settings", "conf")
EXIT_CODES = {f"image_similarity.errors.{name}" for name in ("JobFailed", "WrongInput", "TooManyFailures")}
MAY_KNOW_SPARK = ("storage/hadoop.py", "storage/filesystems.py")
"""Hadoop's file systems are reached through Spark's JVM; ``filesystems`` names the session's type."""


def imports(file: Path) -> set[str]:
    """Full names of all modules that ``file`` imports, wherever in it; ``from a import b`` counts as a and a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide the direction"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def rooms(names: set[str]) -> set[str]:
    """The parts of the library that ``names`` are in."""
    known = {*BELOW, *TOP}
    return {
        parts[1] for parts in (name.split(".") for name in names) if parts[0] == "image_similarity" and len(parts) > 1
    } & known


def room_of(file: Path) -> str:
    return file.relative_to(LIB).parts[0].removesuffix(".py")


def stage_of(file: Path) -> str:
    return file.relative_to(LIB / "stages").parts[0].removesuffix(".py")


def label(file: Path) -> str:
    return str(file.relative_to(LIB))


@pytest.mark.parametrize("file", [file for file in MODULES if room_of(file) in BELOW], ids=label)
def test_nothing_imports_upwards(file: Path) -> None:
    room = room_of(file)
    assert rooms(imports(file)) <= BELOW[room] | {room}


def test_every_room_has_its_place() -> None:
    assert {room_of(file) for file in MODULES} == {*BELOW, *TOP, "__init__"}
    order = list(BELOW)
    for room, below in BELOW.items():
        assert all(order.index(other) < order.index(room) for other in below), f"{room} has no place in a stack"


@pytest.mark.parametrize("file", [file for file in MODULES if room_of(file) in NO_SPARK], ids=label)
def test_what_computes_knows_no_spark(file: Path) -> None:
    assert not {name for name in imports(file) if name.split(".")[0] in ("pyspark", "py4j")}


@pytest.mark.parametrize("file", [file for file in MODULES if room_of(file) in COMPUTING], ids=label)
def test_what_computes_knows_no_exit_codes(file: Path) -> None:
    assert not imports(file) & EXIT_CODES


@pytest.mark.parametrize("file", [file for file in MODULES if room_of(file) == "storage"], ids=label)
def test_storage_needs_no_spark(file: Path) -> None:
    if label(file) not in MAY_KNOW_SPARK:
        assert not {name for name in imports(file) if name.split(".")[0] in ("pyspark", "py4j")}


@pytest.mark.parametrize("file", [file for file in MODULES if room_of(file) == "stages"], ids=label)
def test_no_stage_imports_another(file: Path) -> None:
    others = {stage_of(other) for other in MODULES if room_of(other) == "stages"} - {stage_of(file), "__init__"}
    imported = {
        parts[2] for parts in (name.split(".") for name in imports(file)) if parts[1:2] == ["stages"] and len(parts) > 2
    }
    assert not imported & others


def test_a_snapshot_is_read_without_spark() -> None:
    program = "import sys; import image_similarity.warehouse.snapshot; sys.exit('pyspark' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_the_check_sees_what_it_forbids(tmp_path: Path) -> None:
    file = tmp_path / "kernel.py"
    file.write_text("def f():\n    from image_similarity.stages.neighbours import plan\n    import pyspark.sql\n")
    assert rooms(imports(file)) == {"stages"} and "pyspark.sql" in imports(file)
