"""docs/python.md is true: its methods are all there are, and its examples run."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import image_similarity as ims
from image_similarity.warehouse.defaults import DEFAULT_FINGERPRINT
from warehouses import Made, random_vectors

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "python.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_every_method_is_in_the_table_with_its_arguments() -> None:
    section = PAGE.partition("## What it answers")[2].partition("\n## ")[0]
    told = dict(re.findall(r"^\| `(\w+)\((.*?)\)` \|", section, re.MULTILINE))
    # Those of this project's own modules, and properties.
    internal = {"store", "encoder", "limits", "look_up", "tags_of", "snapshot", "weights", "uri", "version"}
    public = {name for name in vars(ims.Collection) if not name.startswith("_")} - internal
    assert set(told) == public
    for name, arguments in told.items():
        parameters = list(inspect.signature(getattr(ims.Collection, name)).parameters.values())[1:]
        expected = [f"{one.name}=" if one.kind is one.KEYWORD_ONLY else one.name for one in parameters]
        assert [argument for argument in arguments.split(", ") if argument] == expected


def test_its_examples_can_be_typed_in_the_demo() -> None:
    """Its fingerprint is the demo's, and its images are those of the questions, whose SQL runs."""
    questions = (Path(__file__).resolve().parents[2] / "docs" / "questions.md").read_text(encoding="utf-8")
    fingerprints = set(re.findall(r'fingerprint="(.*?)"', PAGE)) | set(re.findall(r'weights={"(.*?)"', PAGE))
    images = re.findall(r'image_id="(.*?)"', PAGE)
    assert fingerprints == {DEFAULT_FINGERPRINT} and images and all(name in questions for name in images)


def test_its_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    made = Made(str(tmp_path / "demo" / "samples-warehouse"))
    for night in ("monday", "tuesday"):
        made.manifest({"a": "1", "b": "1"}, label=night)
        made.embeddings({"a": "A", "b": "B"}, random_vectors("AB"), failures={"c": "not_an_image"}, label=night)
        made.neighbours({"a": ["b"], "b": ["a"]}, label=night)
        made.groups({"g": "ab"}, label=night)
        made.groups({"s": "ab"}, "similar", label=night)
    namespace: dict[str, Any] = {}
    for example in EXAMPLES:
        exec(example, namespace)  # noqa: S102
    calls = re.findall(r"`(collection\.\w+\([^`]*\))`", PAGE)
    for call in calls:
        eval(call, namespace)  # noqa: S307
    assert len(EXAMPLES) > 4 and len(calls) > 2 and "tuesday build_manifest" in capsys.readouterr().out
