"""What messages suggest: near names, short lists, and a share of failures that would have been allowed."""

import os
import socket
from pathlib import Path

import pytest

from image_similarity.errors import counted, did_you_mean, listed, near, near_files, no_such_file, sentences, what_is
from image_similarity.jobs.job import enough_for

NAMES = ["vgg16-fc2", "colour-histogram", "hog", "squeezenet1_1", "squeezenet1_0"]


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("hogg", ["hog"]),
        ("VGG16_FC2", ["vgg16-fc2"]),
        ("colour", ["colour-histogram"]),
        ("squeezenet1-1", ["squeezenet1_1", "squeezenet1_0"]),
        ("xyzzy", []),
        ("", []),
    ],
)
def test_near_names(word: str, names: list[str]) -> None:
    assert near(word, NAMES) == names
    assert did_you_mean(word, NAMES) == (f"; did you mean {' or '.join(names)}?" if names else "")


def test_long_lists_are_cut_and_say_so() -> None:
    assert listed([]) == "none" and listed("abc") == "a, b, c"
    assert listed(map(str, range(100))) == "0, 1, 2, 3, 4, 5, 6, 7 and 92 more"
    assert "more" not in listed(map(str, range(9)))


def test_near_files_are_those_where_the_path_leaves_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "cats").mkdir()
    assert near_files(f"{tmp_path}/pictures/cat/") == "; did you mean cats?"
    assert near_files(f"{tmp_path}/picture/cats") == f" (there is no {tmp_path}/picture); did you mean pictures?"
    assert near_files("/xyzzy") == ""


@pytest.mark.parametrize(
    ("wanted", "there", "offered"),
    [
        ("w.pth", ["w-moved.pth", "pw.py"], "w-moved.pth"),
        ("w.pth", ["pw.py", "w.py"], ""),
        ("w.pth", ["w.pt"], "w.pt"),
        ("photo.jpg", ["Photo.JPG", "photo.txt"], "Photo.JPG"),
        ("pictures", ["picture.zip"], "picture.zip"),
        ("run.2", ["run.3"], "run.3"),
    ],
)
def test_near_files_are_of_the_same_kind(wanted: str, there: list[str], offered: str, tmp_path: Path) -> None:
    for name in there:
        (tmp_path / name).touch()
    assert near_files(f"{tmp_path}/{wanted}") == (f"; did you mean {offered}?" if offered else "")


@pytest.mark.parametrize(
    ("count", "words", "text"),
    [
        (0, ["image"], "0 images"),
        (1, ["image"], "1 image"),
        (1460, ["image"], "1,460 images"),
        (2, ["copy"], "2 copies"),
        (2, ["day"], "2 days"),
        (2, ["class"], "2 classes"),
        (2, ["box"], "2 boxes"),
        (1, ["run is", "runs are"], "1 run is"),
        (0, ["run is", "runs are"], "0 runs are"),
    ],
)
def test_a_count_and_its_noun(count: int, words: list[str], text: str) -> None:
    assert counted(count, *words) == text


def test_two_sentences() -> None:
    assert sentences("no such file; did you mean a?", "Name it") == "no such file; did you mean a? Name it"
    assert sentences("gone", "Name it") == "gone. Name it" and sentences("gone", "") == "gone"


@pytest.mark.parametrize(("failed", "count", "enough"), [(2, 9, 0.23), (1, 9, 0.12), (2, 10, 0.2), (1, 1234, 0.00082)])
def test_the_share_that_is_advised(failed: int, count: int, enough: float) -> None:
    assert enough_for(failed, count) == enough


def test_what_is_advised_is_allowed_and_no_more_than_one() -> None:
    counts = (1, 2, 3, 7, 49, 100, 997, 12345)
    shares = [(failed, count) for count in counts for failed in range(1, count + 1, 1 + count // 50)]
    assert [pair for pair in shares if not pair[0] <= enough_for(*pair) * pair[1] <= pair[1]] == []


def test_what_is_at_a_path(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    for link, target in (("to-file", "file"), ("to-nothing", "gone"), ("to-itself", "to-itself")):
        (tmp_path / link).symlink_to(target)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
    names = {"pipe": "a named pipe", "file": "a file", "socket": "a socket", ".": "a folder", "to-file": "a file"}
    assert {name: what_is(str(tmp_path / name)) for name in names} == names and what_is("/dev/null") == "a device"
    assert what_is(str(tmp_path / "to-nothing")) == "a link to gone, which is not there"
    assert what_is(str(tmp_path / "to-itself")).startswith("a link to to-itself, which leads nowhere")
    with pytest.raises(FileNotFoundError):
        what_is(str(tmp_path / "gone"))
    assert no_such_file(f"{tmp_path}/to-nothing").endswith("to-nothing (a link to gone, which is not there)")
