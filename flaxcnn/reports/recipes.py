"""What run and study pages say of a recipe: network, settings, source, software."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from flaxcnn.errors import FlaxcnnError
from flaxcnn.recipe.config import Config
from flaxcnn.records.files import flat
from flaxcnn.records.format import count_text, value_text
from flaxcnn.records.read import RunRecord, StudyRecord
from flaxcnn.records.tables import Cell, Table
from flaxcnn.records.views import SOURCE_CHANGED
from flaxcnn.reports.architecture import architecture, described, size
from flaxcnn.reports.page import Facts, Page, Section

HIDDEN = ("layers",)  # of the settings: they have a table of their own
FOREMOST = ("optimizer", "learning_rate", "schedule", "batch_size", "epochs", "augment", "loss",
            "seed")  # fmt: skip
VERSIONS = ("python", "flaxcnn", "jax", "flax", "optax", "numpy")
MACHINE = ("device", "devices", "platform")


def source_trust(record: RunRecord | StudyRecord) -> tuple[str, str]:
    """Whether the source that the figures came from is known."""
    revision = str(record.environment.get("source_revision") or "")
    if not revision:
        return "open", "The source's revision is not known: it ran from no git checkout"
    if revision.endswith("+"):
        return "no", SOURCE_CHANGED.removesuffix(".")
    return "yes", f"Source `{revision[:12]}`, without uncommitted changes"


def recipe_warnings(record: RunRecord | StudyRecord) -> list[str]:
    """What is doubtful about the recipe and the source."""
    warnings = [f"{text}." for text in record.recipe.warnings()] if record.recipe else []
    if str(record.environment.get("source_revision") or "").endswith("+"):
        warnings.append(SOURCE_CHANGED)
    return warnings


def network(page: Page, recipe: Config | None, shape: Sequence[int], classes: int) -> Section:
    """The layers of a recipe on images [H, W, C], as a drawing and as a table."""
    section = Section("network", "Network")
    if recipe is None:
        return section
    height, width, channels = shape
    try:
        rows = recipe.table((height, width, channels), classes)
    except FlaxcnnError as error:
        page.warnings.append(f"The network is not shown: {error}.")
        return section
    if picture := page.drawn("the network", architecture, rows):
        page.files.append(picture)
    most = {key: max(max(getattr(row, key) for row in rows), 1) for key in ("params", "macs")}
    section.add(
        Table(
            f"{count_text(len(rows), 'layer')} on {size(shape)} images",
            ["layer", "what", "output", "parameters", "multiply-adds"],
            [
                [Cell(row.name), Cell(described(row)), Cell(size(row.output)),
                 *(Cell(f"{getattr(row, key):,}", getattr(row, key), getattr(row, key) / most[key])
                   for key in ("params", "macs"))]
                for row in rows
            ],
        )
    )  # fmt: skip
    return section


def settings_table(config: dict[str, Any]) -> Table:
    """The recipe, without its layers: what one looks for first, then the rest."""
    keys = [*(key for key in FOREMOST if key in config), *config]
    return Table(
        "Settings of the recipe",
        ["setting", "value"],
        [[Cell(key), Cell(value_text(config[key]))]
         for key in dict.fromkeys(keys) if key not in HIDDEN],
    )  # fmt: skip


def foremost(settings: Table) -> Table:
    """What one looks for first."""
    rows = [row for row in settings.rows if row[0].text in FOREMOST]
    return replace(settings, caption="Foremost settings", rows=rows)


def environment_table(environment: dict[str, Any]) -> Table:
    """env.json, flat."""
    rest = {key: value for key, value in environment.items() if key != "versions"}
    return Table(
        "Software and machine",
        ["what", "value"],
        [[Cell(key), Cell(_text(value))]
         for key, value in {**environment.get("versions", {}), **flat(rest)}.items()],
    )  # fmt: skip


def _text(value: Any) -> str:
    if value is None:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def where_it_ran(environment: dict[str, Any], fingerprint: str = "") -> Facts:
    """Versions and machine, in short."""
    versions = environment.get("versions", {})
    facts = [(name, str(versions[name])) for name in VERSIONS if name in versions]
    facts += [(name, str(environment[name])) for name in MACHINE if environment.get(name)]
    if fingerprint:
        facts.append(("fingerprint", f"`{fingerprint}`"))
    return Facts("Where it ran", facts)
