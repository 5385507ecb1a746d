"""Files whose digests agree in their first 60 bits, from the listing to the gallery, and in the runs that follow."""

import os
from pathlib import Path

import pytest

from processes import ROOT, ask, draw, finish


def test_files_whose_digests_nearly_agree_are_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = os.pathsep.join([str(ROOT / "tests" / "colliding"), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    images, warehouse, gallery = tmp_path / "images", tmp_path / "w", tmp_path / "gallery"

    def pipeline(first: int, beyond: int) -> None:
        draw(images, range(first, beyond))
        finish("run_pipeline", warehouse, "--images", images, "--gallery", gallery)
        digests = [row[0] for row in ask(warehouse, "SELECT content_sha256 FROM embeddings")]
        assert len(set(digests)) == beyond and {digest[:15] for digest in digests} == {"a" * 15}
        assert ask(warehouse, "SELECT count(DISTINCT embedding) FROM embeddings") == [(beyond,)]
        assert ask(warehouse, "SELECT count(*) FROM neighbours") == [(2 * beyond * (beyond - 1),)]
        assert ask(warehouse, "SELECT count(*) FROM exact_duplicates") == [(0,)]
        assert len(list((gallery / "pictures").rglob("*.webp"))) == beyond

    pipeline(0, 2)
    pipeline(2, 3)  # a new one is told from those that are known
    (images / "0.jpg").touch()  # read again, and known
    pipeline(3, 3)
