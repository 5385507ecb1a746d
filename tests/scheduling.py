"""An Airflow of its own, in the environment that ``make test-all`` makes, with the DAG file of a ``dist``."""

import json
import os
import sqlite3
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv-airflow" / "bin"


@dataclass(frozen=True)
class Airflow:
    home: Path
    dist: Path
    environment: Mapping[str, str]

    def run(self, program: str, *arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run ``program`` of Airflow's environment to its end; output and errors are one stream."""
        own = {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dist / "jobs" / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
        }
        inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYSPARK_PYTHON")}
        return subprocess.run(
            [str(BIN / program), *map(str, arguments)],
            env={**inherited, **own, **self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def described(self, *settings: Path) -> dict[str, Any]:
        """What Airflow makes of the DAG file with each of ``settings``: see airflow/describe.py."""
        done = self.run("python", Path(__file__).with_name("airflow") / "describe.py", *settings)
        assert done.returncode == 0, done.stdout
        described: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return described

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of Airflow's database."""
        with sqlite3.connect(self.home / "airflow.db") as connection:
            return connection.execute(query).fetchall()
