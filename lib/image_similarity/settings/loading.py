"""From TOML files and ``--set section.key=value`` to settings, or to a list of all faults.

Settings are laid over one another: defaults, files, ``--set``, flags. Tables are merged key by key. A list or a single
value replaces what was there, and so does a fingerprint of another kind.
"""

import os
import re
import select
import stat
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from typing import Any

from pydantic import BaseModel, ValidationError

from image_similarity.errors import WrongInput, did_you_mean, near, near_by_words, no_such_file, what_is
from image_similarity.settings import renamed
from image_similarity.settings.fingerprints import DEFAULT_FINGERPRINT, keys_of
from image_similarity.settings.sections import FaultOfFingerprint, Settings

Path = tuple[str, ...]
"""The keys that lead to a value."""

_DEFAULTS = {"fingerprints": {DEFAULT_FINGERPRINT: {"network": "vgg16", "layer": "fc2"}}}


_PIPE_SECONDS = 30.0
"""Without a word from a named pipe. Programs that decrypt settings write to it at once."""


@dataclass(frozen=True)
class ReadFile:
    """A file of settings that was read: a pipe can be read once only."""

    name: str
    values: dict[str, Any]

    def __str__(self) -> str:
        return self.name


def read(files: Iterable[Traversable]) -> list[ReadFile]:
    """``files`` (TOML), each read once. Raises ``WrongInput`` for one that cannot be read, or is no TOML."""
    return [ReadFile(str(file), _read_toml(file)) for file in files]


@dataclass(frozen=True)
class Given:
    """One setting of the command line."""

    override: str
    """``section.key=value``. The value is read as TOML if it is valid TOML, else as a string. A number may be
    ``.5``."""
    words: str
    """What was typed, for messages: ``--set neighbours.similar=3``, or ``-k 3``."""


@dataclass(frozen=True)
class _Source:
    """Where a value was written. ``words``: what was typed, with the ``key`` that it names, or the name of the file."""

    words: str
    key: Path = ()
    is_file: bool = False


@dataclass
class _Layers:
    """Values that were laid over one another, and where each was written."""

    values: dict[str, Any] = field(default_factory=dict)
    sources: dict[Path, _Source] = field(default_factory=dict)

    def lay(self, new: Mapping[str, Any], sources: Mapping[Path, _Source]) -> None:
        """Lays ``new`` over what is there. ``sources``: of each value that is no table."""
        for path in _merge(self.values, new):
            self.sources = {known: source for known, source in self.sources.items() if known[: len(path)] != path}
        self.sources |= sources

    def sources_of(self, path: Path, is_missing: bool = False) -> list[_Source]:
        """Where what is at ``path`` was written: it, or what is in it; of these the command line, if it has any.

        ``is_missing``: nothing is there, and it belongs where its table begins.
        """
        if is_missing:
            return [source for key, source in self.sources.items() if key[: len(path) - 1] == path[:-1]][:1]
        for length in range(len(path), 0, -1):
            if path[:length] in self.sources:
                return [self.sources[path[:length]]]
        inside = dict.fromkeys(source for key, source in self.sources.items() if key[: len(path)] == path)
        return [source for source in inside if not source.is_file] or list(inside)[-1:]


def load(
    files: Iterable[Traversable | ReadFile] | None = None, overrides: Iterable[str] = (), flags: Iterable[Given] = ()
) -> Settings:
    """The settings of ``files`` (TOML), each laid over those before it, then of ``overrides`` (the values of ``--set``,
    ``section.key=value``), then of ``flags``, which are what flags of their own abbreviate.

    Raises ``WrongInput`` that lists every fault, and where two of the overrides, or two of the flags, give one key
    different values.
    """
    layers = _layers(files or (), overrides)
    _lay_given(layers, flags)
    try:
        return Settings.model_validate(layers.values)
    except ValidationError as error:
        lines = list(dict.fromkeys(line for fault in error.errors() for line in _described(fault, layers)))
        raise WrongInput(lines[0] if len(lines) == 1 else "\n  ".join(["wrong settings:", *lines])) from None


def declared_fingerprints(files: Iterable[Traversable | ReadFile], overrides: Iterable[str]) -> set[str]:
    """The fingerprints that ``files`` and ``overrides`` (see `load`) declare: those with a network or a kind."""
    declared = _layers(files, overrides).values["fingerprints"]
    return {name for name, keys in declared.items() if _kind(keys)} if isinstance(declared, Mapping) else set()


def default_of(key: str) -> Any:
    """The default of ``section.key``. ``KeyError`` if there is none."""
    section, _, name = key.partition(".")
    return getattr(Settings.model_fields[section].default, name)


def _layers(files: Iterable[Traversable | ReadFile], overrides: Iterable[str]) -> _Layers:
    layers = _Layers()
    layers.lay(_DEFAULTS, {})
    for file in files:
        values = _renamed(file.values if isinstance(file, ReadFile) else _read_toml(file), str(file))
        layers.lay(values, dict.fromkeys(_leaves(values), _Source(str(file), is_file=True)))
    _lay_given(layers, [Given(override, f"--set {override}") for override in overrides])
    return layers


def _lay_given(layers: _Layers, given: Iterable[Given]) -> None:
    """Lays settings of the command line over ``layers``. Raises ``WrongInput`` where two of ``given`` contradict."""
    values: dict[str, Any] = {}
    sources: dict[Path, _Source] = {}
    first: dict[Path, tuple[Any, str]] = {}
    for one in given:
        new = _renamed(_parse_override(one), one.words)
        path, value = _only(new, one.override.partition("=")[0].count(".") + 1)
        before = first.setdefault(path, (value, one.words))
        if before[0] is not value and before[0] != value:  # nan is not equal to itself
            raise WrongInput(f"{'.'.join(path)} is given twice, by {before[1]} and by {one.words}: once is enough")
        _merge(values, new)
        sources |= dict.fromkeys(_leaves(new), _Source(one.words, path))
    layers.lay(values, sources)


def _leaves(values: Mapping[str, Any], path: Path = ()) -> list[Path]:
    """The paths of all values that are no tables, or empty ones."""
    return [
        leaf
        for key, value in values.items()
        for leaf in (_leaves(value, (*path, key)) if isinstance(value, Mapping) and value else [(*path, key)])
    ]


def _merge(into: dict[str, Any], new: Mapping[str, Any], path: Path = ()) -> list[Path]:
    """Merges the tables of ``new`` into ``into``. The paths of the values of ``into`` that were replaced."""
    replaced: list[Path] = []
    for key, value in new.items():
        here = (*path, key)
        old = into.get(key)
        if isinstance(value, Mapping) and isinstance(old, dict) and not _is_another_kind(here, old, value):
            replaced += _merge(old, value, here)
        else:
            into[key] = _copy(value)
            replaced.append(here)
    return replaced


def _copy(value: Any) -> Any:
    return {key: _copy(part) for key, part in value.items()} if isinstance(value, Mapping) else value


def _is_another_kind(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether ``new`` declares a fingerprint of another kind than ``old``, which has other keys."""
    if len(path) != 2 or path[0] != "fingerprints":
        return False
    return None not in (_kind(old), _kind(new)) and _kind(old) != _kind(new)


def _kind(declared: Any) -> str | None:
    """The kind of a fingerprint's table; None if it has keys of a declaration but does not say what it declares."""
    if not isinstance(declared, Mapping):
        return None
    return str(declared["kind"]) if "kind" in declared else "network" if "network" in declared else None


def _renamed(values: dict[str, Any], source: str) -> dict[str, Any]:
    """``values`` under the current names. Each layer is renamed alone, so that a later layer wins with either name."""
    try:
        return renamed.current(values)
    except ValueError as error:
        raise WrongInput(f"{source}: {error}") from None


def _read_toml(file: Traversable) -> dict[str, Any]:
    try:
        return tomllib.loads(_text(file))
    except TimeoutError:
        raise WrongInput(
            f"settings file {file} is a named pipe, and nobody wrote to it within {_PIPE_SECONDS:g} s: name a file, or "
            "start its writer"
        ) from None
    except FileNotFoundError:
        raise WrongInput(f"--config: {no_such_file(os.path.abspath(str(file)))}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise WrongInput(f"settings file {file} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise WrongInput(f"settings file {file} is not valid TOML: {error}") from None


def _text(file: Traversable) -> str:
    # A shell's own pipes, --config <(...), have somebody who writes. A named one (sops exec-file) may wait for ever.
    path = str(file)
    if not os.path.exists(path) or os.path.isfile(path) or path.startswith(("/dev/", "/proc/")):
        return file.read_text(encoding="utf-8")
    if not stat.S_ISFIFO(os.stat(path).st_mode):
        raise WrongInput(f"settings file {path} is {what_is(path)}; name a file")
    return _from_pipe(path)


def _from_pipe(path: str) -> str:
    """All that is written to a named pipe. Raises ``TimeoutError`` if there is nothing, or no end, for `_PIPE_SECONDS`.

    Opened in this way, a pipe does not wait for a writer; ``select`` does.
    """
    content = b""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], _PIPE_SECONDS)[0]:
            piece = pipe.read(1 << 16)
            if not piece and content:
                return content.decode("utf-8")
            if not piece:
                break
            content += piece
    raise TimeoutError


def _parse_override(given: Given) -> dict[str, Any]:
    """``a.b=value`` as nested tables. The value is read as TOML if it is valid TOML, else as a string."""
    path, equals, text = given.override.partition("=")
    keys = [key.strip() for key in path.split(".")]
    if not equals or not all(keys):
        raise WrongInput(f"{given.words}: write it as --set section.key=value")
    value = _parse_value(text)
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


_POINT_FIRST = re.compile(r"(?<![\w.])\.(?=\d)")
"""Where TOML misses the zero of a number: ``.5``."""


def _parse_value(text: str) -> Any:
    """``text`` as TOML, whose numbers may begin with their point here; else itself."""
    for toml in (text, text if '"' in text or "'" in text else _POINT_FIRST.sub("0.", text)):
        try:
            return tomllib.loads(f"value = {toml}")["value"]
        except tomllib.TOMLDecodeError:
            pass
    return text


def _only(values: Mapping[str, Any], depth: int) -> tuple[tuple[str, ...], Any]:
    """The path of the only key in nested tables, ``depth`` keys long, and its value."""
    path: tuple[str, ...] = ()
    value: Any = values
    for _ in range(depth):
        ((key, value),) = value.items()
        path = (*path, key)
    return path, value


# -- faults ------------------------------------------------------------------------------------------------------------


def _described(fault: Any, layers: _Layers) -> list[str]:
    """One fault as lines. Each begins with where it was written: a file and the key, or the words of the command line,
    with the key only where the words set something else.
    """
    path = _path(fault)
    sources = layers.sources_of(path, is_missing=fault["type"] == "missing")
    key, message = ".".join(path), _message(fault, path)
    if sources and not sources[0].is_file:
        words = ", ".join(source.words for source in sources)
        return [f"{words}: {message}" if sources[0].key == path else f"{words}: {key}: {message}"]
    return [f"{source.words}: {key}: {message}" for source in sources] or [f"{key}: {message}"]


def _path(fault: Any) -> Path:
    """The path of the key that is at fault."""
    path = tuple(str(part) for position, part in enumerate(fault["loc"]) if not _is_a_tag(fault["loc"], position))
    if isinstance(error := fault.get("ctx", {}).get("error"), FaultOfFingerprint):
        return (*path, error.name)
    return (*path, "kind") if fault["type"] == "union_tag_invalid" else path


def _message(fault: Any, path: Path) -> str:
    """What is wrong, and what would be right."""
    if len(path) == 1 and not isinstance(fault["input"], Mapping):
        return f"a setting is SECTION.KEY{_of_no_section(path[0])}"
    if fault["type"] == "extra_forbidden":
        return f"no such setting{_suggested(fault['loc'], path)}"
    if fault["type"] == "union_tag_invalid":
        wrong, expected = fault["ctx"]["tag"], fault["ctx"]["expected_tags"]
        return f"should be {expected}, not {wrong!r}{did_you_mean(str(wrong), _quoted(expected))}"
    if fault["type"] == "missing":
        return "is missing"
    if fault["type"] in ("model_attributes_type", "model_type", "dict_type"):
        return f"should be a table of keys, not {fault['input']!r}"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return str(message)
    if fault["type"] == "tuple_type":
        return f'should be a list, as ["a", "b"], not {fault["input"]!r}'
    if fault["type"] == "too_short":
        return "should name at least one, not none"
    near_words = did_you_mean(str(fault["input"]), _quoted(fault.get("ctx", {}).get("expected", "")))
    return f"{message.removeprefix('Input ')}, not {fault['input']!r}{near_words}"


def _quoted(text: Any) -> list[str]:
    return re.findall(r"'([^']+)'", str(text))


def _suggested(loc: tuple[Any, ...], path: Path) -> str:
    """The names of settings that may be meant, in the same table or in another section; else all names of the table."""
    key, beside = path[-1], _known_keys(loc[:-1])
    table = "".join(f"{part}." for part in path[:-1])
    elsewhere = [] if len(path) == 1 else _all_keys()
    names = (
        [table + name for name in near(key, beside)]
        or [name for name in elsewhere if _key_of(name) == key]
        or [table + name for name in near_by_words(key, beside)]
        or _near_keys(key, elsewhere)
    )
    if names:
        return _meant(names)
    return f"; all of [{table[:-1]}]: {', '.join(beside)}" if table else f"; sections are {', '.join(beside)}"


def _of_no_section(word: str) -> str:
    """What may be meant by ``word`` in the place of a section, which got a value that is no table."""
    if word in Settings.model_fields:
        keys = _known_keys((word,)) or [f"NAME.{key}" for key in keys_of("network")]
        return f"; all of [{word}]: {', '.join(keys)}"
    names = [name for name in _all_keys() if _key_of(name) == word] or _near_keys(word, _all_keys())
    return _meant(names) if names else f", as gallery.title; sections are {', '.join(Settings.model_fields)}"


def _near_keys(key: str, names: Sequence[str]) -> list[str]:
    """Those of ``names`` (``section.key``) whose key is near ``key``, by spelling or else by words."""
    keys = [_key_of(name) for name in names]
    alike = near(key, keys) or near_by_words(key, keys)
    return [name for name in names if _key_of(name) in alike]


def _key_of(name: str) -> str:
    return name.rpartition(".")[2]


def _meant(names: Sequence[str]) -> str:
    return f"; did you mean {' or '.join(names)}?"


def _all_keys() -> list[str]:
    """``section.key`` of all settings but those of fingerprints."""
    return [f"{section}.{key}" for section in Settings.model_fields for key in _known_keys((section,))]


def _is_a_tag(path: tuple[Any, ...], position: int) -> bool:
    """Whether this part of a fault's path is the kind of a fingerprint, which pydantic inserts after its name."""
    return position == 2 and path[0] == "fingerprints"


def _known_keys(path: tuple[Any, ...]) -> list[str]:
    """The keys that exist in the table at ``path``; none of a table of fingerprints, whose keys are names."""
    if not path:
        return list(Settings.model_fields)
    if len(path) == 3 and path[0] == "fingerprints":
        return keys_of(path[2])
    section = Settings.model_fields.get(str(path[0]))
    model = section.annotation if section is not None and len(path) == 1 else None
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []
