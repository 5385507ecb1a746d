"""What tests of the DAGs share: a ``dist``, and an Airflow that reads its DAG file."""

import os
from pathlib import Path

import pytest

import scheduling
from scheduling import Airflow
from tools import packaging


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``make package`` writes."""
    folder = tmp_path_factory.mktemp("dist")
    packaging.package(folder)
    return folder


@pytest.fixture(scope="session")
def airflow(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Airflow:
    """An Airflow with a database. ``spark-submit`` is what the folder ``bin`` of its home has, if anything."""
    if not scheduling.BIN.is_dir():
        pytest.fail(f"no Airflow in {scheduling.BIN}: make test-all installs it")
    home = tmp_path_factory.mktemp("airflow")
    (home / "bin").mkdir()
    path = f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"
    made = Airflow(home, dist, {"PATH": path, "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_CONF_DIR": str(dist / "conf")})
    migrated = made.run("airflow", "db", "migrate")
    assert migrated.returncode == 0, migrated.stdout
    return made
