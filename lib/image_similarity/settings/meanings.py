"""What each setting is for, in the words of its own documentation: the docstrings below the fields."""

import ast
import inspect
import textwrap
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import Any

from pydantic import BaseModel

from image_similarity.settings import renamed
from image_similarity.settings.fingerprints import class_of
from image_similarity.settings.sections import Settings

FINGERPRINT = "fingerprint"
"""The section of a run's record with the fingerprints that it made: name -> settings."""


@cache
def meanings(section: type[BaseModel]) -> Mapping[str, str]:
    """key -> what it is for, of one section. Empty where the package has no sources to read it from."""
    return {key: _plain(docstring) for key, docstring in documentation(section).items()}


def documentation(section: type[BaseModel]) -> Mapping[str, str]:
    """As `meanings`, with the backticks of the docstrings."""
    texts: dict[str, str] = {}
    for base in reversed(section.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            texts.update(_docstrings(base))
    return texts


def explained(name: str, values: Any) -> list[tuple[str, Any, str]]:
    """The keys of a section of a run's record, as ``section.key``, each with its value and what it is for.

    Empty if ``name`` is no section of the settings, or ``values`` no mapping. Keys of older versions have their current
    names; a key that is unknown has no explanation.
    """
    if not isinstance(values, Mapping):
        return []
    if name == FINGERPRINT:
        current = renamed.current({"fingerprints": values})["fingerprints"]
        return [
            row
            for key, declared in current.items()
            if isinstance(declared, Mapping)
            for row in _rows(f"{name}s.{key}", class_of(declared), declared)
        ]
    field = Settings.model_fields.get(name)
    if field is None or not isinstance(field.annotation, type):
        return []
    return _rows(name, field.annotation, renamed.section(name, values))


def _rows(prefix: str, section: type[BaseModel], values: Mapping[str, Any]) -> list[tuple[str, Any, str]]:
    said = meanings(section)
    return [(f"{prefix}.{key}", value, said.get(key, "")) for key, value in sorted(values.items())]


def _docstrings(section: type[BaseModel]) -> dict[str, str]:
    try:
        [definition] = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    except OSError:  # a package of compiled files alone
        return {}
    assert isinstance(definition, ast.ClassDef)
    return {
        field.target.id: below.value.value
        for field, below in pairwise(definition.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
    }


def _plain(docstring: str) -> str:
    return " ".join(docstring.replace("`", "").split())
