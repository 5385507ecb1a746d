"""Run by Airflow's Python: print, as one line of JSON, what its parser makes of the DAG folder with each settings file
named.
"""

import json
import os
import sys
import time
from typing import Any

from airflow.configuration import conf
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG


def described(dag: DAG) -> dict[str, Any]:
    return {
        "max_active_runs": dag.max_active_runs,
        "catchup": dag.catchup,
        "schedule": dag.schedule,
        "start": str(dag.start_date),
        "tasks": {task.task_id: _of_task(task) for task in dag.tasks},
    }


def _of_task(task: Any) -> dict[str, Any]:
    names = ("application", "application_args", "conf", "properties_file", "py_files", "pool", "retries", "env_vars")
    return {
        **{name: getattr(task, name) for name in names},
        "is_submission": isinstance(task, SparkSubmitOperator),
        "after": sorted(task.upstream_task_ids),
        "publishes": {asset.name: asset.uri for asset in task.outlets},
    }


def parsed(settings: str) -> dict[str, Any]:
    os.environ["IMAGE_SIMILARITY_AIRFLOW"] = settings
    start = time.perf_counter()
    bag = DagBag(conf.get("core", "dags_folder"))
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "errors": list(bag.import_errors.values()),
        "dags": {name: described(dag) for name, dag in bag.dags.items()},
    }


before = set(sys.modules)
results = [parsed(settings) for settings in sys.argv[1:]]
modules = {name.partition(".")[0] for name in sys.modules}
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps({"parsed": results, "modules": sorted(modules), "new": sorted(new)}))
