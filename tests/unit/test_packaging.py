"""What ``make package`` puts into dist/."""

import re
from pathlib import Path

from tools import packaging


def test_an_image_is_made_of_what_is_there(tmp_path: Path) -> None:
    """By one Dockerfile, also where an earlier version of this left another one."""
    for _ in range(2):
        packaging.package(tmp_path)
    [dockerfile] = tmp_path.rglob("Dockerfile")
    assert dockerfile.parent == tmp_path
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile.read_text(), re.MULTILINE)
    names = [name for line in copied for name in line.split()]
    assert len(names) > 3 and [name for name in names if not (tmp_path / name).exists()] == []
