"""Frozen dataclasses to plain JSON values and back, strictly: nothing unknown, no wrong type.

A value of a union is written with its class in lower case under `type`; a bare string stands for
that class with its defaults, so `"adam"` is `{"type": "adam"}`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from typing import Any, Literal, Union

from flaxcnn.errors import ConfigError, near_miss


def encode(value: Any) -> Any:
    """Plain JSON value of a dataclass, tuple or scalar."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        body = {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__.lower(), **body}
    if isinstance(value, tuple | list):  # a recipe in Python may write its layers as a list
        return [encode(item) for item in value]
    return value


def decode(hint: Any, value: Any, path: str) -> Any:
    """`value` as the type `hint` wants it; `path` names it in errors.

    Raises:
        ConfigError: field, value received, what is allowed, and the near miss.
    """
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return _decode_union(typing.get_args(hint), value, path)
    if origin is Literal:
        allowed = typing.get_args(hint)
        if value in allowed and type(value) is not bool:
            return value
        names = ", ".join(map(str, allowed))
        raise ConfigError(
            f"{path}: got {value!r}; allowed is one of {names}{near_miss(value, map(str, allowed))}"
        )
    if origin is tuple:
        return _decode_tuple(typing.get_args(hint), value, path)
    if dataclasses.is_dataclass(hint):
        return _decode_dataclass(typing.cast(type, hint), value, path)
    return _decode_scalar(hint, value, path)


def _decode_scalar(hint: Any, value: Any, path: str) -> Any:
    if hint is float and type(value) in (int, float):
        if not math.isfinite(value):
            raise ConfigError(f"{path}: got {value!r}; allowed is a finite number")
        return float(value)
    if type(value) is hint:
        return value
    name = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}[hint]
    raise ConfigError(f"{path}: got {value!r}; allowed is {name}")


def _decode_tuple(args: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{path}: got {value!r}; allowed is a list")
    if len(args) == 2 and args[1] is ...:
        return tuple(decode(args[0], item, f"{path}.{i}") for i, item in enumerate(value))
    if len(value) != len(args):
        raise ConfigError(f"{path}: got {value!r}; allowed is a list of {len(args)}")
    pairs = zip(args, value, strict=True)
    return tuple(decode(arg, item, f"{path}.{i}") for i, (arg, item) in enumerate(pairs))


def _decode_union(members: tuple[Any, ...], value: Any, path: str) -> Any:
    classes: dict[str, type] = {
        m.__name__.lower(): m
        for m in members
        if isinstance(m, type) and dataclasses.is_dataclass(m)
    }
    if value is None and type(None) in members:
        return None
    if classes:
        tag = (
            value
            if isinstance(value, str)
            else value.get("type", next(iter(classes)) if len(classes) == 1 else None)
            if isinstance(value, dict)
            else None
        )
        if not isinstance(tag, str) or tag.lower() not in classes:
            names = ", ".join(classes)
            raise ConfigError(
                f"{path}: got {value!r}; allowed is one of {names}{near_miss(str(tag), classes)}"
            )
        body = {} if isinstance(value, str) else value
        return _decode_dataclass(classes[tag.lower()], body, path)
    errors = []
    for member in sorted((m for m in members if m is not type(None)), key=_narrow_first):
        try:
            return decode(member, value, path)
        except ConfigError as error:
            errors.append(str(error).rpartition("allowed is ")[2])
    none = " or none" if type(None) in members else ""
    raise ConfigError(
        f"{path}: got {value!r}; allowed is {' or '.join(dict.fromkeys(errors))}{none}"
    )


def _narrow_first(member: Any) -> int:
    return 1 if member is float else 0  # an int stays an int where both are allowed


@functools.cache
def hints(cls: type) -> dict[str, Any]:
    """Field name -> resolved type of a dataclass."""
    resolved = typing.get_type_hints(cls)
    return {f.name: resolved[f.name] for f in dataclasses.fields(cls)}


def _decode_dataclass(cls: type, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(value) and isinstance(value, cls):
        return value
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: got {value!r}; allowed is a table of {', '.join(hints(cls))}")
    known, prefix = hints(cls), f"{path}." if path else ""
    given = {key: item for key, item in value.items() if key != "type"}
    for key in given:
        if key not in known:
            allowed = (
                f"allowed are {', '.join(known)}" if known else f"{cls.__name__.lower()} has none"
            )
            raise ConfigError(f"{prefix}{key}: unknown key; {allowed}{near_miss(key, known)}")
    for field in dataclasses.fields(cls):
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and field.name not in given:
            raise ConfigError(f"{prefix}{field.name}: missing; {cls.__name__.lower()} needs it")
    decoded = {key: decode(known[key], item, f"{prefix}{key}") for key, item in given.items()}
    return cls(**decoded)


def parse_text(text: str) -> Any:
    """A value typed on the command line: JSON where it is JSON, True/False/None, else a text."""
    words = {"True": True, "False": False, "None": None, "none": None}
    if text in words:
        return words[text]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # ValueError: also an integer of thousands of digits
        return text


def set_at(plain: Any, path: str, value: Any, parent: str = "") -> None:
    """Set the dotted `path` inside a plain JSON value, in place; lists take an index.

    Names are not checked here: `decode` knows what is allowed and says so. `parent` is the path
    of `plain` itself, for errors.
    """
    name, _, rest = path.partition(".")
    key: Any = name
    if isinstance(plain, list):
        if not name.isdecimal() or int(name) >= len(plain):
            last = len(plain) - 1
            allowed = f"an index from 0 to {last}" if plain else "a whole list, it is empty"
            raise ConfigError(f"{parent}{path}: got {name!r}; allowed is {allowed}")
        key = int(name)
    if not rest:
        plain[key] = value
        return
    inner = plain[key] if isinstance(plain, list) else plain.get(name)
    if isinstance(inner, str):
        inner = {"type": inner}
    if not isinstance(inner, dict | list):
        inner = {}
    plain[key] = inner
    set_at(inner, rest, value, f"{parent}{name}.")
