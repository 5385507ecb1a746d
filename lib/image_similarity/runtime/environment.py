"""What variables of the environment may do to Spark in local mode: each is checked or set right before Java starts.

Raises ``JobFailed`` that names the variable, where Spark's own error would name another thing.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyspark

from image_similarity.errors import JobFailed, WrongInput

_IMPORTS = "import sys, numpy, pyarrow, pyspark; print('%d.%d' % sys.version_info[:2], pyspark.__version__)"


def prepare() -> None:
    """For the processes that this one starts, before the first of them."""
    _check_spark_home()
    _check_worker_python()
    # A file of the working directory, random.py say, must not take the place of a module that workers import.
    os.environ["PYTHONSAFEPATH"] = "1"
    if os.environ.get("LC_ALL", "").upper() in ("C", "POSIX"):  # Python takes this for UTF-8, and Java for ASCII
        os.environ["LC_ALL"] = "C.UTF-8"


def check_names(session: Any, names: Iterable[str]) -> None:
    """Raise ``WrongInput`` for a path that Java would write as another one, with ``?`` in it."""
    encoding = session._jvm.java.lang.System.getProperty("sun.jnu.encoding")
    for name in names:
        try:
            name.encode(encoding)
        except (UnicodeEncodeError, LookupError):
            raise WrongInput(
                f"{name}: Java cannot write this name in the locale's encoding ({encoding}): set LC_ALL=C.UTF-8"
            ) from None


def umask() -> int:
    """The umask of this process, which decides who may read what it writes."""
    current = os.umask(0o077)
    os.umask(current)
    return current


def _check_spark_home() -> None:
    home = os.environ.get("SPARK_HOME")
    if home and not list(Path(home, "jars").glob(f"spark-core_*-{pyspark.__version__}.jar")):
        raise JobFailed(
            f"SPARK_HOME is {home}, where no Spark {pyspark.__version__} is, which pyspark here needs: unset SPARK_HOME"
        )


def _check_worker_python() -> None:
    """Workers must run the Python of the driver, with what Spark and this library import."""
    python = os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    if python == sys.executable:
        return
    advice = f"unset it, or set it to {sys.executable}"
    if shutil.which(python) is None:
        raise JobFailed(f"PYSPARK_PYTHON is {python}, which is no program: {advice}")
    done = subprocess.run([python, "-c", _IMPORTS], capture_output=True, text=True)
    ours = f"{sys.version_info[0]}.{sys.version_info[1]} {pyspark.__version__}"
    if done.returncode:
        fault = (done.stderr.strip().splitlines() or ["it failed"])[-1]
        raise JobFailed(f"PYSPARK_PYTHON is {python}, which cannot run workers ({fault}): {advice}")
    if done.stdout.strip() != ours:
        theirs = " with pyspark ".join(done.stdout.split())
        wanted = " with pyspark ".join(ours.split())
        raise JobFailed(f"PYSPARK_PYTHON is {python}: Python {theirs}, and not Python {wanted}: {advice}")
