"""``image-similarity``: its help, what a misspelt name is answered, and how it hands on to subcommands."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from image_similarity import __version__
from image_similarity.command import catalogue
from image_similarity.command.main import main
from image_similarity.jobs import command_line

ROOT = Path(__file__).resolve().parents[2]
JOBS = sorted(file.stem for file in (ROOT / "jobs").glob("*.py"))
HEAVY = ("pyspark", "torch", "pyarrow", "numpy", "pydantic", "PIL")


def typed(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "image_similarity.command", *words]
    return subprocess.run(command, capture_output=True, text=True)


def test_every_job_is_a_subcommand() -> None:
    assert sorted(map(catalogue.module_of, catalogue.JOBS)) == JOBS
    assert {"search", "serve"} == {*catalogue.COMMANDS} - {*catalogue.JOBS}


def test_help_tells_every_subcommand_in_a_line() -> None:
    done = typed("--help")
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    for commands in catalogue.GROUPS.values():
        for name, about in commands.items():
            assert sum(line.split()[:1] == [name] and line.endswith(about) for line in lines) == 1
    assert max(map(len, lines)) <= 120
    assert lines.index("to ask a collection:") < lines.index("to make one:") < lines.index("to look after it:")
    assert done.stdout == typed("help").stdout == typed("-h").stdout


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["serch"], []])
def test_what_needs_no_subcommand_imports_none(words: list[str]) -> None:
    """So that it is answered at once."""
    program = (
        "import sys\nfrom image_similarity.command.main import main\n"
        f"main({words!r})\nassert not {{*sys.modules}} & {{{', '.join(map(repr, HEAVY))}}}\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_arguments_it_says_how_to_begin(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    told = capsys.readouterr()
    assert told.out == "" and "run-pipeline" in told.err and "search FILE" in told.err and "--help" in told.err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"image-similarity {__version__}\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["serch", "a.jpg"], "no such command: serch; did you mean search?"),
        (["find-neighbors"], "no such command: find-neighbors; did you mean find-neighbours?"),
        (["run_pipline.py"], "no such command: run_pipline.py; did you mean run-pipeline?"),
        (["xyzzy"], "no such command: xyzzy; image-similarity --help lists all"),
        (["a\x1b[31m\nb"], r"no such command: a\x1b[31m\nb; image-similarity --help lists all"),
        ([""], "no such command: ; image-similarity --help lists all"),
        ([__file__], f"to ask what looks like this file: image-similarity search {__file__} --warehouse URI"),
        (["--warehouse", "w", "search"], "image-similarity COMMAND --warehouse ..."),
        (["help", "serch"], "did you mean search?"),
    ],
)
def test_an_unknown_subcommand_is_one_line(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    line = capsys.readouterr().err
    assert line.startswith("image-similarity: error: ") and told in line and line.count("\n") == 1


@pytest.mark.parametrize("job", catalogue.JOBS)
def test_every_job_has_its_help_under_its_name(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([job, "--help"])
    told = capsys.readouterr().out
    assert ended.value.code == 0 and told.startswith(f"usage: image-similarity {job} ")
    assert "--warehouse" in told and ".py" not in told.partition("\n\n")[0]


@pytest.mark.parametrize(
    "word", ["find_neighbours", "find_neighbours.py", "jobs/find_neighbours.py", "Find-Neighbours"]
)
def test_the_name_of_a_job_or_of_its_file_is_that_of_its_subcommand(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, list[str], str]] = []

    def record(job: Any, words: list[str], prog: str) -> int:
        calls.append((job.__name__, words, prog))
        return 3

    monkeypatch.setattr(command_line, "main", record)
    assert main([word, "--warehouse", "w"]) == 3
    assert calls == [
        ("image_similarity.jobs.find_neighbours", ["--warehouse", "w"], "image-similarity find-neighbours")
    ]


def test_a_job_tells_its_faults_under_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["find-neighbours", "--warehouse", "w", "--metrik", "x"]) == 2
    assert capsys.readouterr().err == (
        "image-similarity find-neighbours: error: no such flag: --metrik; did you mean --metric?\n"
    )
    assert main(["clean-warehouse", "--warehouse", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith("image-similarity clean-warehouse: error: --warehouse ")


def test_ctrl_c_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "main", interrupted)
    assert main(["find-neighbours"]) == 130
    assert capsys.readouterr().err == "image-similarity: interrupted\n"


def test_a_reader_that_has_enough_ends_it_quietly() -> None:
    program = [sys.executable, "-m", "image_similarity.command", "--help"]
    started = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert started.stdout is not None and started.stderr is not None
    started.stdout.close()
    assert (started.stderr.read(), started.wait()) == (b"", 141)
