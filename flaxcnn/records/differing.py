"""What tells recipes beside each other apart: the settings that differ, and a name for each."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flaxcnn.errors import ConfigError
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.settings import with_setting
from flaxcnn.records.files import flat
from flaxcnn.records.format import EVERYTHING, value_text
from flaxcnn.records.tables import MISSING, Cell, Table

# No part of a recipe that a reader looks for: the seed differs within a side
LEFT_OUT = ("seed",)
MOST = 3  # settings that a name holds
ABSENT = object()


def settings_of(config: Mapping[str, Any], setting: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting of a recorded recipe by its dotted key, with the `setting` of a grid."""
    with contextlib.suppress(ConfigError):  # another version's: as it was written
        config = with_setting(Config.from_dict(dict(config)), setting).to_dict()
        setting = {}
    return {key: value for key, value in flat({**config, **setting}).items()
            if key not in LEFT_OUT}  # fmt: skip


def differing(recipes: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Key -> its value in each recipe as text, of the settings that are not the same in all.

    Layers are compared one by one where there are equally many of the same kinds.

    >>> differing([{"epochs": 3, "batch_size": 32}, {"epochs": 3, "batch_size": 64}])
    {'batch_size': ['32', '64']}
    """
    recipes = _by_layer(recipes)
    found = {}
    for key in dict.fromkeys(itertools.chain.from_iterable(recipes)):
        values = [recipe.get(key, ABSENT) for recipe in recipes]
        if any(value != values[0] for value in values):
            found[key] = [MISSING if value is ABSENT else _text(value) for value in values]
    return found


def _by_layer(recipes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`layers.3.rate` in place of a list of layers, where all lists have the same kinds."""
    spread = []
    for recipe in recipes:
        own = {key: value for key, value in recipe.items() if key != "layers"}
        layers = recipe.get("layers") or ()
        for number, layer in enumerate(layers):
            own |= {f"layers.{number}.{k}": v for k, v in flat(dict(layer)).items()}
        spread.append(own)
    kinds = [[layer.get("type") for layer in recipe.get("layers") or ()] for recipe in recipes]
    return spread if all(one == kinds[0] for one in kinds) else [dict(one) for one in recipes]


def _text(value: Any) -> str:
    """A value as one types it; of layers their kinds: `conv2d x 2, flatten, dense`."""
    specs = value if isinstance(value, list) else []
    if not specs or not all(isinstance(spec, dict) and "type" in spec for spec in specs):
        return value_text(value)
    kinds = itertools.groupby(spec["type"] for spec in specs)
    counts = ((kind, len(list(same))) for kind, same in kinds)
    return ", ".join(kind if n == 1 else f"{kind} x {n}" for kind, n in counts)


def difference_table(labels: Sequence[str], differ: Mapping[str, Sequence[str]]) -> Table:
    """Settings that differ and sides, whichever is more as the rows."""
    caption = "Settings that differ; all others are the same"
    if len(labels) > len(differ):
        values = zip(*differ.values(), strict=True)
        rows = [[Cell(label), *map(Cell, own)] for label, own in zip(labels, values, strict=True)]
        return Table(caption, ["recipe", *differ], rows)
    rows = [[Cell(key), *map(Cell, values)] for key, values in differ.items()]
    return Table(caption, ["setting", *labels], rows)


def side_labels(
    names: Sequence[str], settings: Sequence[Mapping[str, Any]], varied: Sequence[str],
    paths: Sequence[Path],
) -> list[str]:  # fmt: skip
    """A name for each side, by what differs: `model10`, `learning_rate=0.01`, or its folder.

    Args:
        names: of the experiments.
        settings: as `settings_of` gives them.
        varied: the source of randomness that a study varied, "all" as a rule.
        paths: of the folders.
    """
    if len(set(names)) == len(names):
        return list(names)
    differ = differing(settings)
    labels = []
    for number, path in enumerate(paths):
        words = [names[number]] if len(set(names)) > 1 else []
        # Of the first all, of the others what they have changed
        own = {key: values[number] for key, values in differ.items()
               if number == 0 or values[number] != values[0]}  # fmt: skip
        if (0 < len(own) <= MOST and number) or 0 < len(differ) <= MOST:
            words.append(", ".join(f"{key}={value}" for key, value in own.items()))
        elif differ:
            words.append(path.name)
        if varied[number] != EVERYTHING:
            words.append(varied[number])
        labels.append(" ".join(words) or names[number])
    twice = {label for label in labels if labels.count(label) > 1}
    return [f"{label} ({path})" if label in twice else label
            for label, path in zip(labels, paths, strict=True)]  # fmt: skip
