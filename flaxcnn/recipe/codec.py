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
from collections.abc import Sequence
from typing import Any, Literal, Union

from flaxcnn.errors import ConfigError, near_miss, one_of
from flaxcnn.limits import DEPTH, cut, shown
from flaxcnn.recipe.references import TakesArguments

LARGEST = 2**63 - 1  # what an array of integers can hold


def encode(value: Any) -> Any:
    """Plain JSON value of a dataclass, tuple or scalar.

    A field that older records lack is left out where its value is the one that they imply, so that
    a specification that got new fields is still written as before.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        body = {}
        for field in dataclasses.fields(value):
            plain = encode(getattr(value, field.name))
            implied = getattr(field.metadata.get("setting"), "before", dataclasses.MISSING)
            if implied is dataclasses.MISSING or plain != implied:
                body[field.name] = plain
        if isinstance(value, TakesArguments):
            del body["arguments"]
            body |= {name: encode(item) for name, item in value.arguments}
        return {"type": type(value).__name__.lower(), **body}
    if isinstance(value, tuple | list):  # a recipe in Python may write its layers as a list
        return [encode(item) for item in value]
    return value


INDEX_DIGITS = 9  # of a number in a path; more than a list can have, and less than int() refuses


class WrongTypeError(ConfigError):
    """A value of another type than its field; `wanted` are the alternatives, `hint` a near miss."""

    def __init__(self, path: str, wanted: Sequence[str], value: Any, hint: str = ""):
        super().__init__(f"{cut(path)} must be {one_of(wanted)} (got {shown(value)}){hint}")
        self.wanted, self.hint = wanted, hint


def decode(hint: Any, value: Any, path: str) -> Any:
    """`value` as the type `hint` wants it; `path` names it in errors.

    Raises:
        ConfigError: naming the field, the value, what is allowed, and the near miss.
    """
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return _decode_union(typing.get_args(hint), value, path)
    if origin is Literal:
        allowed = typing.get_args(hint)
        if value in allowed and type(value) is not bool:
            return value
        words = [str(word) for word in allowed]
        raise WrongTypeError(path, words, value, near_miss(value, words))
    if origin is tuple:
        return _decode_tuple(typing.get_args(hint), value, path)
    if dataclasses.is_dataclass(hint):
        return _decode_dataclass(typing.cast(type, hint), value, path)
    return _decode_scalar(hint, value, path)


def _decode_scalar(hint: Any, value: Any, path: str) -> Any:
    if hint is float and type(value) in (int, float):
        try:
            number = float(value)
        except OverflowError:  # an integer of hundreds of digits
            number = math.inf
        if not math.isfinite(number):
            raise WrongTypeError(path, ["a finite number"], value)
        return number
    if type(value) is int and hint is int and not -LARGEST <= value <= LARGEST:
        raise WrongTypeError(path, [f"an integer from {-LARGEST} to {LARGEST}"], value)
    if type(value) is hint:
        return value
    wanted = {int: "an integer", float: "a number", str: "text", bool: "true or false"}[hint]
    raise WrongTypeError(path, [wanted], value)


def _decode_tuple(args: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if isinstance(value, str) and typing.get_origin(args[0]) in (Union, types.UnionType):
        value = [name.strip() for name in value.split(",")]  # augment=shift,flip
    if not isinstance(value, list | tuple):
        raise WrongTypeError(path, ["a list"], value)
    if len(args) == 2 and args[1] is ...:
        return tuple(decode(args[0], item, f"{path}.{i}") for i, item in enumerate(value))
    if len(value) != len(args):
        raise WrongTypeError(path, [f"a list of {len(args)}"], value)
    pairs = zip(args, value, strict=True)
    return tuple(decode(arg, item, f"{path}.{i}") for i, (arg, item) in enumerate(pairs))


def _decode_union(members: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in members:
        return None
    specs: dict[str, type] = {
        member.__name__.lower(): member
        for member in members
        if isinstance(member, type) and dataclasses.is_dataclass(member)
    }
    if specs:
        words = [w for m in members if typing.get_origin(m) is Literal for w in typing.get_args(m)]
        if value in words:
            return value
        (first, *others) = specs.values()
        tag = _tag(value, specs)
        by_value = () if others or tag in specs else getattr(first, "BY_VALUE", ())
        if by_value and isinstance(value, int | str | dict):  # resize=64, and then resize.train=...
            given = value if isinstance(value, dict) else {"type": value}
            return _decode_dataclass(first, dict.fromkeys(by_value, given["type"]) | given, path)
        if tag not in specs:
            shown = value if tag is None else tag
            allowed = [*words, *specs]
            raise WrongTypeError(path, allowed, shown, near_miss(str(tag), allowed))
        return _decode_dataclass(specs[tag], {} if isinstance(value, str) else value, path)
    wanted: list[str] = []
    hint = ""
    for member in sorted((m for m in members if m is not type(None)), key=_narrow_first):
        try:
            return decode(member, value, path)
        except WrongTypeError as error:
            wanted += error.wanted
            hint = hint or error.hint
    none = ["none"] if type(None) in members else []
    raise WrongTypeError(path, [*dict.fromkeys(wanted), *none], value, hint)


def _tag(value: Any, specs: dict[str, type]) -> str | None:
    """The name of the class that a plain value stands for; of one class, it may be left out."""
    if isinstance(value, dict):
        value = value.get("type", next(iter(specs)) if len(specs) == 1 else None)
    return value.lower() if isinstance(value, str) else None


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
        raise WrongTypeError(path, [f"a table of {', '.join(hints(cls))}"], value)
    known, prefix = dict(hints(cls)), f"{path}." if path else ""
    given = {str(key): item for key, item in value.items() if key != "type"}
    arguments = {}
    if issubclass(cls, TakesArguments):
        del known["arguments"]
        arguments = {key: given.pop(key) for key in list(given) if key not in known}
    for key in given:
        if key not in known:
            has = ", ".join(known) or "no settings"
            meant = near_miss(key, known) or ";"  # first: what is there may be a long list
            raise ConfigError(
                f"unknown setting {cut(prefix + key)}{meant} {cls.__name__.lower()} has {has}"
            )
    for field in dataclasses.fields(cls):
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and field.name not in given:
            raise ConfigError(f"{prefix}{field.name} is missing; {cls.__name__.lower()} needs it")
    decoded = {key: decode(known[key], item, f"{prefix}{key}") for key, item in given.items()}
    return cls(**decoded, **arguments)


def parse_text(text: str) -> Any:
    """A value typed on the command line: JSON where it is JSON, True/False/None, else text.

    >>> parse_text("0.1"), parse_text("adam"), parse_text("none")
    (0.1, 'adam', None)
    """
    words = {"True": True, "False": False, "None": None, "none": None}
    if text in words:
        return words[text]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # ValueError: also an integer of thousands of digits
        return text


def set_at(plain: Any, path: str, value: Any, parent: str = "") -> None:
    """Set the dotted `path` inside a plain JSON value, in place; lists take an index.

    Names are not checked here but by `decode`. `parent` is the path of `plain` itself, for errors.
    """
    if path.count(".") > DEPTH:
        raise ConfigError(f"{cut(path)}: is deeper than {DEPTH} settings within settings")
    name, _, rest = path.partition(".")
    key: Any = name
    if isinstance(plain, list):
        if not name.isdecimal() or len(name) > INDEX_DIGITS or int(name) >= len(plain):
            allowed = f"must be from 0 to {len(plain) - 1}" if plain else "has no item to change"
            raise ConfigError(f"{cut(parent + path)}: the index {allowed} (got {shown(name)})")
        key = int(name)
    if not rest:
        plain[key] = value
        return
    inner = plain[key] if isinstance(plain, list) else plain.get(name)
    if isinstance(inner, str) or type(inner) is int:
        inner = {"type": inner}
    if not isinstance(inner, dict | list):
        inner = {}
    plain[key] = inner
    set_at(inner, rest, value, f"{parent}{name}.")
