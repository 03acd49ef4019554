"""Settings from file, environment and command line, laid over a recipe."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from flaxcnn.errors import ConfigError, first_line
from flaxcnn.limits import CONFIG_BYTES, parse_json, read_bytes, too_deep
from flaxcnn.recipe.codec import hints, parse_text, set_at
from flaxcnn.recipe.config import Config


class Source(NamedTuple):
    """One layer of settings: where it comes from, and its dotted keys."""

    origin: str
    settings: Mapping[str, Any]


def layered(base: Config, sources: Sequence[Source]) -> tuple[Config, dict[str, str]]:
    """Apply the sources in order, the last one wins -> (config, origin of each changed key).

    Changing the kind of optimizer without a learning rate takes that optimizer's default.

    Raises:
        ConfigError: unknown key (near miss named), wrong type, value out of range.
    """
    plain, origins = base.to_dict(), dict.fromkeys(hints(Config), "experiment")
    for origin, settings in sources:
        for key, value in settings.items():
            path = key.removesuffix(".type")  # optimizer.type=sgd is optimizer=sgd
            new_kind = path == "optimizer" and _kind(value) != _kind(plain["optimizer"])
            if new_kind and "learning_rate" not in settings:
                plain["learning_rate"] = None
                origins["learning_rate"] = f"default of {_kind(value)}"
            set_at(plain, path, value)
            origins[path] = origin
    return Config.from_dict(plain), origins


def with_setting(base: Config, setting: Mapping[str, Any]) -> Config:
    """The recipe with one setting of a grid."""
    # The kind of an optimizer before its settings, in whichever order they were given.
    by_depth = dict(sorted(setting.items(), key=lambda item: item[0].count(".")))
    return layered(base, [Source("grid", by_depth)])[0]


def _kind(optimizer: Any) -> str:
    return str(optimizer.get("type") if isinstance(optimizer, dict) else optimizer).lower()


def from_assignments(texts: Sequence[str]) -> dict[str, Any]:
    """Settings of `-s` options.

    >>> from_assignments(["epochs=3", "optimizer.momentum=0.9"])
    {'epochs': 3, 'optimizer.momentum': 0.9}

    Raises:
        ConfigError: one is not KEY=VALUE.
    """
    settings = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"-s {text}: write it as KEY=VALUE, such as -s epochs=3")
        settings[key.strip()] = parse_text(value.strip())
    return settings


def from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """`FLAXCNN_EPOCHS=3`, `FLAXCNN_OPTIMIZER__MOMENTUM=0.9` -> settings, Config's fields only."""
    settings = {}
    for field in fields(Config):
        prefix = f"FLAXCNN_{field.name.upper()}"
        for name, text in sorted(environ.items()):  # FLAXCNN_OPTIMIZER before its __MOMENTUM
            if name == prefix or name.startswith(f"{prefix}__"):
                settings[name.removeprefix("FLAXCNN_").lower().replace("__", ".")] = parse_text(
                    text
                )
    return settings


def from_file(path: Path) -> dict[str, Any]:
    """Settings of a TOML or JSON file; nested tables are merged key by key.

    Raises:
        ConfigError: the file is missing, not text, or not valid TOML or JSON.
    """
    return dict(_flat(read_table(path, "--config"), ""))


def read_table(path: Path, option: str) -> dict[str, Any]:
    """The table in a TOML or JSON file; `option` named it.

    Raises:
        ConfigError: the file is missing, not text, or not valid TOML or JSON.
    """
    try:
        text = read_bytes(path, CONFIG_BYTES).decode()
        plain = parse_json(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{option} {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{option} {path}: {first_line(error)}") from None
    if not isinstance(plain, dict):
        raise ConfigError(f"{option} {path}: the file must hold a table of settings")
    if too_deep(plain):
        raise ConfigError(f"{option} {path}: its tables are nested too deeply")
    return plain


def _flat(plain: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in plain.items():
        if isinstance(value, dict) and "type" not in value:
            pairs += _flat(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs
