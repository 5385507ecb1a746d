"""From a TOML file and ``--set section.key=value`` to settings, or to a list of all faults."""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from importlib.resources.abc import Traversable
from typing import Any

from pydantic import BaseModel, ValidationError

from image_similarity.errors import WrongInput
from image_similarity.settings import renamed
from image_similarity.settings.fingerprints import DEFAULT_FINGERPRINT, keys_of
from image_similarity.settings.sections import Settings


def load(file: Traversable | None, overrides: Iterable[str] = (), flags: Iterable[str] = ()) -> Settings:
    """The settings of ``file`` (TOML; None for defaults) with ``overrides`` (``section.key=value``), then ``flags``.

    ``flags`` have the form of ``overrides``: they are what flags of their own abbreviate. Raises ``WrongInput`` that
    lists every fault, and where two of the overrides, or two of the flags, give one key different values.
    """
    values: dict[str, Any] = {"fingerprints": {DEFAULT_FINGERPRINT: {"network": "vgg16", "layer": "fc2"}}}
    if file is not None:
        _merge(values, _renamed(_read_toml(file), str(file)))
    given: dict[tuple[str, ...], Any] = {}
    for layer in (overrides, flags):
        given |= _apply(layer, values)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise WrongInput("\n  ".join(_listed(error, file, given))) from None


def _apply(overrides: Iterable[str], values: dict[str, Any]) -> dict[tuple[str, ...], Any]:
    """Merge ``overrides`` into ``values``. The path and value of each. Raises ``WrongInput`` where two contradict."""
    given: dict[tuple[str, ...], Any] = {}
    for override in overrides:
        new = _renamed(_parse_override(override), f"--set {override}")
        path, value = _only(new, override.partition("=")[0].count(".") + 1)
        if given.setdefault(path, value) != value:
            values_given = f"as {given[path]!r} and as {value!r}"
            raise WrongInput(f"{'.'.join(path)} is given twice, {values_given}: once is enough")
        _merge(values, new)
    return given


def _listed(error: ValidationError, file: Traversable | None, given: Mapping[tuple[str, ...], Any]) -> list[str]:
    """The faults as lines, those of the command line apart from those of ``file``."""
    lines: dict[str, list[str]] = {}
    for fault in error.errors():
        path = _path(fault)
        is_given = any(key[: len(path)] == path or path[: len(key)] == key for key in given)
        source = " on the command line" if is_given or file is None else f" in {file}"
        lines.setdefault(f"wrong settings{source}:", []).append(_describe(fault))
    return [line for heading, faults in lines.items() for line in (heading, *faults)]


def _renamed(values: dict[str, Any], source: str) -> dict[str, Any]:
    """``values`` under the current names. Each layer is renamed alone, so that a later layer wins with either name."""
    try:
        return renamed.current(values)
    except ValueError as error:
        raise WrongInput(f"{source}: {error}") from None


def _read_toml(file: Traversable) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WrongInput(f"settings file not found: {file}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise WrongInput(f"settings file {file} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise WrongInput(f"settings file {file} is not valid TOML: {error}") from None


def _parse_override(override: str) -> dict[str, Any]:
    """``a.b=value`` as nested tables. The value is read as TOML if it is valid TOML, else as a string."""
    path, equals, text = override.partition("=")
    keys = [key.strip() for key in path.split(".")]
    if not equals or not all(keys):
        raise WrongInput(f"--set {override}: write it as section.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def _merge(into: dict[str, Any], new: Mapping[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _only(values: Mapping[str, Any], depth: int) -> tuple[tuple[str, ...], Any]:
    """The path of the only key in nested tables, ``depth`` keys long, and its value."""
    path: tuple[str, ...] = ()
    value: Any = values
    for _ in range(depth):
        ((key, value),) = value.items()
        path = (*path, key)
    return path, value


def _path(fault: Any) -> tuple[str, ...]:
    """The path of the key that is at fault."""
    return tuple(str(part) for position, part in enumerate(fault["loc"]) if not _is_a_tag(fault["loc"], position))


def _describe(fault: Any) -> str:
    """One fault as a line: the key's path, the fault, and the expected value."""
    loc = _path(fault)
    path = ".".join(loc)
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(loc[-1]), _known_keys(fault["loc"][:-1]), n=1)
        return f"{path}: no such setting" + (f"; did you mean {near[0]!r}?" if near else "")
    if fault["type"] == "union_tag_invalid":
        return f"{path}.kind: should be {fault['ctx']['expected_tags']}, not {fault['ctx']['tag']!r}"
    if fault["type"] == "missing":
        return f"{path}: is missing"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return f"{path}: {message}"
    return f"{path}: {message[0].lower()}{message[1:]}, not {fault['input']!r}"


def _is_a_tag(path: tuple[Any, ...], position: int) -> bool:
    """Whether this part of a fault's path is the kind of a fingerprint, which pydantic inserts after its name."""
    return position == 2 and path[0] == "fingerprints"


def _known_keys(path: tuple[Any, ...]) -> list[str]:
    """The keys that exist below ``path``, for suggestions."""
    if len(path) == 3 and path[0] == "fingerprints":
        return keys_of(path[2])
    model: type[BaseModel] = Settings
    for part in path:
        field = model.model_fields.get(str(part))
        if field is None:
            return []
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            model = field.annotation
    return list(model.model_fields)
