"""What cleanvision (https://github.com/cleanlab/cleanvision) says of files: run by `quality.py`, in a Python with it.

    python cleanvision_issues.py SETS.json OUT.json

SETS.json: of each set of pictures its files. OUT.json: of each set the seconds of processor time, without imports; of
each issue the score (low is bad) and whether it is raised, file by file. Limits are cleanvision's own. Needs
cleanvision, nothing of ours.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from cleanvision import Imagelab

ISSUES = ("dark", "light", "blurry", "low_information", "odd_aspect_ratio", "odd_size")
"""All that judge one picture, but ``grayscale``: that is no fault."""


def judged(files: list[str]) -> dict[str, Any]:
    start = time.process_time()
    lab = Imagelab(filepaths=files, verbose=False)
    lab.find_issues(dict.fromkeys(ISSUES, {}), n_jobs=1, verbose=False)
    seconds = time.process_time() - start
    rows = lab.issues.loc[files]
    issues = {
        issue: {"score": rows[f"{issue}_score"].tolist(), "raised": rows[f"is_{issue}_issue"].tolist()}
        for issue in ISSUES
    }
    return {"seconds": seconds, "issues": issues}


if __name__ == "__main__":
    sets = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps({name: judged(files) for name, files in sets.items()}), encoding="utf-8")
