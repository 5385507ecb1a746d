"""A flag or a setting that is given twice is refused: whichever was meant, the other would be lost without a word."""

import pytest

from image_similarity import settings
from image_similarity.errors import WrongInput
from image_similarity.jobs import embed_images, find_neighbours, run_pipeline
from image_similarity.jobs.command_line import _parser

GIVEN = ["--warehouse", "w", "--images", "i"]


@pytest.mark.parametrize("flag", [["--warehouse", "w"], ["--images", "i"], ["--dry-run", "--dry-run"]])
def test_flags(flag: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        _parser(run_pipeline, "run_pipeline").parse_args([*GIVEN, *flag])
    assert ended.value.code == 2 and f"{flag[0]} is given more than once" in capsys.readouterr().err


def test_an_unset_variable_is_no_place(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        _parser(run_pipeline, "run_pipeline").parse_args(["--images", "i", "--warehouse", ""])
    assert ended.value.code == 2 and "--warehouse is empty" in capsys.readouterr().err


def test_what_is_repeatable() -> None:
    parsed = _parser(run_pipeline, "p").parse_args([*GIVEN, "--fingerprint", "a", "--fingerprint", "b", "--verbose"])
    assert parsed.fingerprints == ["a", "b"] and parsed.verbose
    parsed = _parser(embed_images, "e").parse_args([*GIVEN[:2], "--retry-failed", "a", "--retry-failed"])
    assert parsed.retry_failed == ["a", "every"]


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
    with pytest.raises(WrongInput, match="is given twice, as"):
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
