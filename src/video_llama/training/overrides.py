"""Typed settings from plain mappings: built, checked, changed by dotted names, written back.

    build(Recipe, {"batch": 32, ...})                       dataclasses from what a file holds
    override(mapping, "schedule.peak=1e-4")                 one setting of a command line
    to_mapping(recipe)                                      what `build` would take

Every message names the setting by its dotted name.
"""

import dataclasses
import difflib
import json
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Self, TypeVar, Union

from video_llama.errors import OptionError

T = TypeVar("T")


def build(kind: type[T], given: Mapping[str, Any], where: str = "") -> T:
    """A dataclass from a mapping, and the dataclasses inside it from mappings inside.

    A text in place of a section is its `path`: `cache = "features"`.

    Raises:
        OptionError: an unknown name, one that is missing, or a value that is not accepted.
    """
    known = {one.name: one for one in dataclasses.fields(kind)}  # pyrefly: ignore[bad-argument-type]
    hints = typing.get_type_hints(kind)
    for name in given:
        if name not in known:
            raise OptionError(f"{_join(where, name)} is not known; {_nearest(name, known)}")
    values = {
        name: _convert(value, hints[name], _join(where, name)) for name, value in given.items()
    }
    for name, one in known.items():
        required = one.default is one.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise OptionError(f"{_join(where, name)} is missing; give it a value")
    try:
        return kind(**values)
    except OptionError as error:
        raise OptionError(_join(where, str(error))) from None


def to_mapping(settings: Any) -> Any:
    """Dataclasses as mappings, tuples as lists: what JSON holds and `build` takes."""
    if dataclasses.is_dataclass(settings):
        return {
            one.name: to_mapping(getattr(settings, one.name))
            for one in dataclasses.fields(settings)
        }
    if isinstance(settings, (list, tuple)):
        return [to_mapping(value) for value in settings]
    return settings


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping with some values replaced; sections are merged, lists are not."""
    merged = dict(base)
    for name, value in changes.items():
        old = merged.get(name)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[name] = merge(old, value) if both else value
    return merged


def override(mapping: dict[str, Any], setting: str) -> None:
    """Change a mapping by one `dotted.name=value`. Values are JSON where they can be, else text.

    Parts of a name that are numbers count from 0 in a list; the number behind the last one
    appends. A text in place of a section that has a `path` changes that, and nothing else of it.

    Raises:
        OptionError: it has another form, or names a place that cannot be.
    """
    dotted, equals, text = setting.partition("=")
    names = dotted.split(".")
    if not equals or not all(names):
        raise OptionError(f"{setting!r} is no setting; give name=value, such as schedule.peak=1e-4")
    place: Any = mapping
    for depth, name in enumerate(names[:-1]):
        inner = _inside(place, name, dotted)
        if not isinstance(inner, (dict, list)):
            # Nothing yet, or a text that stands for a section's path.
            inner = {} if inner is None else {"path": inner}
            _put(place, name, inner, ".".join(names[: depth + 1]))
        place = inner
    _put(place, names[-1], _value(text), dotted)


def _inside(place: Any, name: str, dotted: str) -> Any:
    if isinstance(place, list):
        number = _number(name, place, dotted)
        return place[number] if number < len(place) else None
    return place.get(name)


def _put(place: Any, name: str, value: Any, dotted: str) -> None:
    section = _inside(place, name, dotted)
    if isinstance(value, str) and isinstance(section, dict) and "path" in section:
        section["path"] = value
    elif isinstance(place, dict):
        place[name] = value
    elif (number := _number(name, place, dotted)) < len(place):
        place[number] = value
    else:
        place.append(value)


def _number(name: str, place: list[Any], dotted: str) -> int:
    if not name.isdecimal() or int(name) > len(place):
        raise OptionError(
            f"{dotted}: {name!r} must be a number from 0 to {len(place)}; the list has "
            f"{len(place)} entries"
        )
    return int(name)


class _Written(float):
    """A number as it was written: where a text is wanted, 1.10 is not 1.1."""

    def __new__(cls, text: str) -> Self:
        made = super().__new__(cls, text)
        made.text = text
        return made

    text: str


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_float=_Written)
    except json.JSONDecodeError:
        return text


def _convert(value: Any, hint: Any, where: str) -> Any:
    """A value as the type of its field wants it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (hint,) = (one for one in arguments if one is not type(None))
        return _convert(value, hint, where)
    if origin is Literal:
        if value not in arguments:
            raise OptionError(f"{where} is {', '.join(map(repr, arguments))}; not {value!r}")
        return value
    if origin is tuple:
        return _convert_tuple(value, arguments, where)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, str):
            value = {"path": value}
        if not isinstance(value, Mapping):
            raise OptionError(f"{where} is a section with named settings, not {value!r}")
        return build(hint, value, where)  # pyrefly: ignore[bad-argument-type]
    return _convert_plain(value, hint, where)


def _convert_tuple(value: Any, arguments: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, (list, tuple)):
        raise OptionError(f"{where} is a list, not {value!r}")
    if arguments[-1] is Ellipsis:
        arguments = arguments[:1] * len(value)
    if len(arguments) != len(value):
        raise OptionError(f"{where} is a list of {len(arguments)} values, not {len(value)}")
    return tuple(
        _convert(one, hint, f"{where}.{number}")
        for number, (one, hint) in enumerate(zip(value, arguments, strict=True))
    )


def _convert_plain(value: Any, kind: type, where: str) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    number = number and abs(value) <= sys.float_info.max  # no NaN, nothing that is no float
    if kind is float and number:
        return float(value)
    if kind is int and number and value == int(value):
        return int(value)
    if kind is bool and isinstance(value, bool):
        return value
    if kind is str and (isinstance(value, str) or number):
        return value.text if isinstance(value, _Written) else str(value)
    named = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}
    raise OptionError(f"{where} is {named[kind]}, not {value!r}")


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(map(repr, near))}?"
    return f"known are {', '.join(known)}"
