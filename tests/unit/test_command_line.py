"""Wrong flags: each is one line with the names that are near, before anything is started.

A flag or a setting that is given twice is refused: whichever was meant, the other would be lost without a word.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from image_similarity import conf, settings
from image_similarity.errors import WrongInput
from image_similarity.jobs import (
    command_line,
    declaration,
    download_images,
    embed_images,
    find_neighbours,
    restore_runs,
    run_pipeline,
)
from image_similarity.jobs.command_line import _parser, main

GIVEN = ["--warehouse", "w", "--images", "i"]


@pytest.mark.parametrize("flag", [["--warehouse", "w"], ["--images", "i"], ["--dry-run", "--dry-run"]])
def test_flags(flag: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(run_pipeline, [*GIVEN, *flag]) == 2
    assert f"{flag[0]} is given more than once" in capsys.readouterr().err


def test_an_unset_variable_is_no_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(run_pipeline, ["--images", "i", "--warehouse", ""]) == 2
    assert "--warehouse is empty" in capsys.readouterr().err
    assert main(run_pipeline, [*GIVEN, "--config", ""]) == 2 and "--config is empty" in capsys.readouterr().err
    assert main(run_pipeline, [*GIVEN, "-k", ""]) == 2 and "-k is empty" in capsys.readouterr().err


def test_what_is_repeatable() -> None:
    parsed = _parser(run_pipeline, "p").parse_args([*GIVEN, "--fingerprint", "a", "--fingerprint", "b", "--verbose"])
    assert parsed.fingerprints == ["a", "b"] and parsed.verbose
    parsed = _parser(embed_images, "e").parse_args([*GIVEN[:2], "--retry-failed", "corrupt", "--retry-failed"])
    assert parsed.retry_failed == ["corrupt", "every"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["-k", "3", "-k", "4"],
        ["--set", "neighbours.similar=3", "--set", "neighbours.similar=4"],
        ["--fingerprint", "a", "--fingerprint", "b"],
        ["--set", "approximate.partitions=3", "--set", "approximate.nlist=4"],  # one key, under its older name, too
    ],
)
def test_settings(arguments: list[str]) -> None:
    parsed = _parser(find_neighbours, "find_neighbours").parse_args(["--warehouse", "w", *arguments])
    with pytest.raises(WrongInput, match="is given twice, by"):
        settings.load(None, parsed.overrides, parsed.settings_by_flag)


def test_the_same_value_twice_and_a_key_of_a_table_are_no_fault() -> None:
    declared = 'fingerprints.a={network="resnet18",layer="avgpool"}'
    loaded = settings.load(None, ["neighbours.similar=3", "neighbours.similar=3", declared, "fingerprints.a.seed=1"])
    assert loaded.neighbours.similar == 3


def test_a_flag_of_its_own_wins_over_set_wherever_it_stands() -> None:
    for arguments in (["-k", "3", "--set", "neighbours.similar=4"], ["--set", "neighbours.similar=4", "-k", "3"]):
        parsed = _parser(find_neighbours, "find_neighbours").parse_args(["--warehouse", "w", *arguments])
        loaded = settings.load(None, parsed.overrides, parsed.settings_by_flag)
        assert loaded.neighbours.similar == 3


@pytest.mark.parametrize(
    ("job", "arguments", "told"),
    [
        (run_pipeline, [*GIVEN, "--fingerprnt", "hog"], "no such flag: --fingerprnt; did you mean --fingerprint?"),
        (run_pipeline, [*GIVEN, "--dissim", "3"], "no such flag: --dissim; did you mean --dissimilar?"),
        (run_pipeline, [*GIVEN, "--keep_runs=3"], "no such flag: --keep_runs; did you mean --keep-runs?"),
        (run_pipeline, [*GIVEN, "\u2014dry-run"], "'\u2014dry-run' belongs to no flag; did you mean --dry-run?"),
        (run_pipeline, [*GIVEN, "--xyzzy"], "no such flag: --xyzzy; --help lists all"),
        (run_pipeline, ["--image", "i"], "no such flag: --image; did you mean --images?"),  # before what is missing
        (restore_runs, ["--too", "x"], "no such flag: --too; did you mean --to?"),
        (run_pipeline, [*GIVEN, "-k"], "-k needs a value: -k N"),
        (run_pipeline, [*GIVEN[:2], "--images", "--dry-run"], "--images needs a value: --images URI"),
        (run_pipeline, ["--warehouse", "w"], "--images must be given; --help says what for"),
        (run_pipeline, [*GIVEN, "b.jpg", "c.jpg"], "'b.jpg' and 1 more belong to no flag: quote what has spaces"),
        (run_pipeline, [*GIVEN, "--sample", "0"], "--sample: should be a whole number of 1 or more, not '0'"),
        (run_pipeline, [*GIVEN, "--seed", "x"], "--seed: should be a whole number, not 'x'"),
        (run_pipeline, [*GIVEN, "--log-every", "often"], "--log-every: should be a number of seconds, more than 0"),
        (run_pipeline, [*GIVEN, "--log-format", "jsn"], "--log-format: 'jsn' is no choice; did you mean json?"),
        (
            download_images,
            ["--size", "webb"],
            "--size: 'webb' is no choice; did you mean web?",
        ),
        (
            embed_images,
            [*GIVEN[:2], "--retry-failed", "corupt"],
            "'corupt' is no choice; did you mean corrupt?",
        ),
        (find_neighbours, [*GIVEN[:2], "--metric", "cosin"], "--metric cosin: .* did you mean cosine?"),
        (find_neighbours, [*GIVEN[:2], "-kfive"], "-k five: should be a valid integer, not 'five'"),
        (find_neighbours, [*GIVEN[:2], "-k", "-5"], "-k -5: should be greater than or equal to 0, not -5"),
    ],
)
def test_a_wrong_flag_is_one_line(
    job: Any, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(job, arguments) == 2
    line = capsys.readouterr().err
    name = job.__name__.rpartition(".")[2]
    parts = told.split(" .* ")
    assert line.startswith(f"{name}: error: ") and line.count("\n") == 1
    assert all(part in line for part in parts)


def test_a_wrong_flag_is_json_where_json_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(run_pipeline, ["--log-format", "json", "--xyzzy"]) == 2
    event = json.loads(capsys.readouterr().out)
    assert (event["event"], event["exit_code"], event["job"]) == ("error", 2, "run_pipeline")


def test_values_that_look_like_flags_and_joined_ones_are_read() -> None:
    parsed = _parser(run_pipeline, "p").parse_args([*GIVEN, "-k5", "--seed", "-3", "--set", "gallery.title=--x y"])
    assert parsed.seed == -3 and parsed.settings_by_flag[0].override == "neighbours.similar=5"


def test_config_is_repeatable_and_a_later_file_wins(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"{number}.toml").write_text(f"[neighbours]\nsimilar = {number}\n")
    files = [part for number in (1, 2) for part in ("--config", str(tmp_path / f"{number}.toml"))]
    parsed = _parser(find_neighbours, "find_neighbours").parse_args([*GIVEN[:2], *files])
    loaded = command_line._settings(find_neighbours, parsed)
    assert loaded.neighbours.similar == 2 and {"hog", "colour-histogram", "vgg16-fc2"} == set(loaded.fingerprints)


def test_a_dry_run_says_which_files_were_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.toml").write_text("")
    words = [*GIVEN[:2], "--dry-run", "--config", str(tmp_path / "mine.toml")]
    command_line._settings(find_neighbours, _parser(find_neighbours, "f").parse_args(words))
    told = capsys.readouterr().out
    assert told.startswith("settings: ") and f"local.toml, then {tmp_path / 'mine.toml'}" in told


# -- flags that declare a fingerprint ----------------------------------------------------------------------------------


def declared(*words: str) -> tuple[list[str] | None, settings.Settings]:
    """The fingerprints of the run, and the settings. Jobs check fingerprints after this."""
    parsed = _parser(embed_images, "embed_images").parse_args([*GIVEN[:2], *words])
    files = [conf.local_toml()]
    flags = declaration.declare(parsed, settings.declared_fingerprints(files, parsed.overrides))
    return parsed.fingerprints, settings.load(files, parsed.overrides, flags)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--network", "squeezenet1_1", "--weights", "/d/mine.v2.pth"], "squeezenet1-1-mine-v2"),
        (["--network", "squeezenet1_1", "--weights", "/d/squeezenet1_1-Own.pth"], "squeezenet1-1-own"),
        (["--network", "squeezenet1_1", "--weights", "https://h/w.pth?signature=secret"], "squeezenet1-1-w"),
        (["--network", "resnet18"], "resnet18"),
        (["--network", "resnet18", "--weights", "untrained"], "resnet18-untrained"),
        (["--network", "resnet18", "--weights", "a.pth", "--fingerprint", "own"], "own"),
        (["--weights", "s3://bucket/clip.pt2"], "clip"),
        (["--weights", "clip.PT2", "--fingerprint", "own"], "own"),
    ],
)
def test_network_and_weights_declare_a_fingerprint(words: list[str], name: str) -> None:
    names, loaded = declared(*words)
    fingerprint = loaded.fingerprint(name)
    assert names == [name] and {"vgg16-fc2", name} < set(loaded.fingerprints)
    if "--network" in words:
        assert isinstance(fingerprint, settings.NetworkSettings) and fingerprint.network == words[1]
        assert fingerprint.weights == ((words[3],) if "--weights" in words else ("IMAGENET1K_V1",))
    else:
        assert isinstance(fingerprint, settings.ExportedSettings) and fingerprint.weights == (words[1],)


def test_what_the_flags_leave_open_comes_from_set_and_what_they_say_wins() -> None:
    sets = ["fingerprints.own.layer=features.3", "fingerprints.own.preprocessing=torchvision"]
    words = [part for one in sets for part in ("--set", one)] + ["--fingerprint", "hog", "--fingerprint", "own"]
    names, loaded = declared("--network", "squeezenet1_1", "--preprocessing", "caffe", *words)
    own = loaded.fingerprint("own")
    assert isinstance(own, settings.NetworkSettings) and (own.layer, own.preprocessing) == ("features.3", "caffe")
    assert names == ["hog", "own"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--weights", "a.pth"], "by --network NAME.*--set fingerprints.vgg16-fc2.weights=a.pth"),
        (["--weights", "a.pth", "--fingerprint", "x"], "--set fingerprints.x.weights=a.pth"),
        (["--weights", "a.pt2", "--network", "resnet18"], "a whole program, so leave --network out"),
        (["--preprocessing", "caffe"], "there is neither"),
        (["--network", "resnet18", "--fingerprint", "hog"], "the fingerprint hog of --fingerprint is declared already"),
        (
            ["--network", "resnet18", "--fingerprint", "a", "--fingerprint", "b"],
            "a, b are not declared",
        ),
        (["--network", "resnet18", "--fingerprint", "My_Own"], "--fingerprint My_Own: .* small letters"),
        (["--network", "hog"], "the name would be hog, which is declared already"),
    ],
)
def test_flags_that_make_no_sense_together(words: list[str], told: str) -> None:
    with pytest.raises(WrongInput, match=told) as raised:
        declared(*words)
    assert "\n" not in str(raised.value)
