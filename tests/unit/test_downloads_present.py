"""What counts as a picture that was downloaded before."""

from pathlib import Path

from image_similarity.stages.downloads import stage


def test_an_empty_file_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "whole.jpg").write_bytes(b"1")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.txt").write_bytes(b"1")
    assert list(stage._pictures(str(tmp_path))) == ["whole"] and stage._pictures(str(tmp_path / "none")) == {}
