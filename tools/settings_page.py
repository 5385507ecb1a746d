"""Writes docs/settings.md from the settings' own documentation: ``.venv/bin/python tools/settings_page.py``."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from image_similarity import __version__
from image_similarity.settings import Settings
from image_similarity.settings.fingerprints import class_of, kinds
from image_similarity.settings.meanings import documentation

PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"

HEAD = """# Settings

Which settings there are: every key, its values, its default, and what it is for.

A setting is `SECTION.KEY`. In a file (`--config FILE.toml`) the keys of a section stand below `[SECTION]`; on the
command line it is `--set SECTION.KEY=VALUE`. Quote what has brackets: `--set 'manifest.extensions=["jpg", "png"]'`.
[Jobs](jobs.md#settings) says which one wins where a setting is given in several places. The defaults here are those of
the program; `conf/local.toml` declares some fingerprints.

(`.venv/bin/python tools/settings_page.py` writes this page.)
"""


def page() -> str:
    """The page, as Markdown."""
    return "\n".join([HEAD, *_sections()])


def _sections() -> Iterator[str]:
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type):
            yield _section(f"[{name}]", _after_colon(field.annotation), field.annotation)
    for kind in kinds():
        section = class_of({"kind": kind})
        default = " (the default)" if kind == kinds()[0] else ""
        yield _section(f"[fingerprints.NAME] of kind {kind}", f'`kind = "{kind}"`{default}. {_about(section)}', section)


def _section(title: str, about: str, section: type[BaseModel]) -> str:
    said, schema = documentation(section), section.model_json_schema()["properties"]
    rows = [
        f"| `{key}` | {_values(schema[key])} | {_default(field)} | {_in_cell(said.get(key, ''))} |"
        for key, field in section.model_fields.items()
        if key != "kind"
    ]
    return "\n".join(
        [f"## {title}", "", about, "", "| key | values | default | meaning |", "| --- | --- | --- | --- |", *rows, ""]
    )


def _about(section: type[BaseModel]) -> str:
    return _in_cell(section.__doc__ or "")


def _after_colon(section: type[BaseModel]) -> str:
    """The section's documentation, without its name in front."""
    text = _about(section).partition(": ")[2]
    return text[:1].upper() + text[1:]


def _in_cell(docstring: str) -> str:
    return " ".join(docstring.replace("``", "`").split()).replace("|", "\\|")


def _values(schema: Mapping[str, Any]) -> str:
    """The values that a key takes, from its JSON schema."""
    choices = [one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]
    return " or ".join(_value(choice) for choice in choices)


def _value(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    names = {"integer": "whole number", "number": "number", "boolean": "`true`, `false`", "string": "text"}
    if schema["type"] == "array":
        count = f"{schema['minItems']} numbers" if "prefixItems" in schema else "texts"
        return f"list of {count}"
    return names[schema["type"]] + _range(schema)


def _range(schema: Mapping[str, Any]) -> str:
    if "exclusiveMinimum" in schema:
        return f", more than {_number(schema['exclusiveMinimum'])}" + _most(schema)
    if "minimum" in schema and "maximum" in schema:
        return f", {_number(schema['minimum'])} to {_number(schema['maximum'])}"
    return f", {_number(schema['minimum'])} or more" if "minimum" in schema else ""


def _most(schema: Mapping[str, Any]) -> str:
    return f", at most {_number(schema['maximum'])}" if "maximum" in schema else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    value = field.default
    if value is None:
        return "none"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"`{_number(value)}`"
    return f"`{json.dumps(value).replace(__version__, 'VERSION')}`"


def _number(value: float) -> str:
    """As TOML reads it: ``1_073_741_824``."""
    return f"{value:_}" if isinstance(value, int) and abs(value) >= 10_000 else f"{value:g}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
