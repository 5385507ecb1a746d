"""Which way imports go: jobs -> stages -> kernels; a stage imports no other stage; kernels know no Spark."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIB = ROOT / "lib" / "image_similarity"
MODULES = sorted(LIB.rglob("*.py"))
JOBS = ("cli", "application", "endings")
NOT_FOR_KERNELS = (
    "pyspark",
    *(f"image_similarity.{name}" for name in ("stages", "settings", "tables", "warehouse", "spark", "devices", "storage", *JOBS)),
)


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


def forbidden(names: set[str], prefixes: tuple[str, ...]) -> set[str]:
    return {name for name in names if any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)}


def stage_of(file: Path) -> str:
    return file.relative_to(LIB / "stages").parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", [file for file in MODULES if "kernels" in file.parts], ids=lambda file: file.stem)
def test_kernels_know_no_spark_and_nothing_above_them(file: Path) -> None:
    assert not forbidden(imports(file), NOT_FOR_KERNELS)


@pytest.mark.parametrize("file", [file for file in MODULES if "stages" in file.parts], ids=lambda file: file.stem)
def test_stages_import_neither_jobs_nor_other_stages(file: Path) -> None:
    others = {stage_of(other) for other in MODULES if "stages" in other.parts} - {stage_of(file), "__init__"}
    above = tuple(f"image_similarity.stages.{other}" for other in others) + tuple(f"image_similarity.{name}" for name in JOBS)
    assert not forbidden(imports(file), above + tuple(job.stem for job in (ROOT / "jobs").glob("*.py")))


SHARED = [file for file in MODULES if not {"stages", "kernels"} & set(file.parts)]


@pytest.mark.parametrize("file", SHARED, ids=lambda file: str(file.relative_to(LIB)))
def test_shared_modules_import_no_stage(file: Path) -> None:
    assert not forbidden(imports(file), ("image_similarity.stages",))


def test_the_check_sees_what_it_forbids(tmp_path: Path) -> None:
    file = tmp_path / "kernel.py"
    file.write_text("def f():\n    from pyspark.sql import functions\n")
    assert forbidden(imports(file), NOT_FOR_KERNELS) == {"pyspark.sql", "pyspark.sql.functions"}
