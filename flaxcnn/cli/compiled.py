"""`flaxcnn bench --compile-for`: programs compiled for chips that this machine does not have."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flaxcnn.accelerators.cases import IMPLEMENTATIONS, Case, compile_case, folder, versions
from flaxcnn.accelerators.targets import Target, parse
from flaxcnn.cli.output import columns, emit_json, note, say
from flaxcnn.errors import ConfigError, FlaxcnnError, check_choice, one_of
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.data import KNOWN_DATA
from flaxcnn.records.files import write_atomic

PROGRAMS = {"train": "train_epoch", "eval": "evaluate"}  # --mode -> the program
# Name, width, and whether it is among the foremost
FIGURES = (("program", 11, True), ("by", 7, True), ("precision", 9, True), ("kernels", 7, False),
           ("launches", 8, True), ("conv", 4, False), ("transp", 6, False),
           ("exchanges", 9, False), ("MB", 7, True), ("cycles", 10, True),
           ("temporary", 11, False), ("at least", 10, True))  # fmt: skip
WIDE = sum(width + 1 for _, width, _ in FIGURES) + len("us by exchanges")
LEFT = ("program", "by", "precision")  # words, which begin at the left


def chosen(text: str, implementation: str, width: int | None) -> tuple[Target, int, list[str]]:
    """(target, chips, implementations) of the options.

    Raises:
        ConfigError: one of them is wrong, or the target's compiler is not installed.
    """
    target, chips = parse(text)
    check_choice("--implementation", implementation, (*IMPLEMENTATIONS, "both"))
    if width is not None and width < 2:
        raise ConfigError(f"--width must be at least 2 (got {width})")
    if width and chips > 1:
        raise ConfigError(
            f"--width={width} puts runs side by side on one chip (got {chips}); use --compile-for "
            f"{target.name}"
        )
    alone = width is None and chips == 1  # the plain loop of Flax's examples is for one device
    if implementation == "flax" and not alone:
        raise ConfigError(
            "--implementation flax compiles for one chip and one run; use flaxcnn for several"
        )
    folder(target)
    if implementation != "both":
        return target, chips, [implementation]
    return target, chips, list(IMPLEMENTATIONS if alone else IMPLEMENTATIONS[:1])


def run(
    text: str, configs: Mapping[str, Config], modes: Sequence[str], sizes: Sequence[int],
    precisions: Sequence[str], width: int | None, implementation: str, output: Path | None,
    keep: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Compile every combination in turn; each is printed and written as soon as it is done.

    Raises:
        ConfigError: bad options, or a recipe that does not fit the chip's memory.
        FlaxcnnError: the compiler failed on one.
    """
    target, chips, implementations = chosen(text, implementation, width)
    for name, config in configs.items():
        if config.dataset not in KNOWN_DATA:
            raise ConfigError(
                f"--compile-for needs a data set of known shape, {one_of(KNOWN_DATA)} ({name} "
                f"has {config.dataset})"
            )
    document: dict[str, Any] = {"results": [], "versions": versions(folder(target))}
    told = ""
    for case in _cases(text, configs, modes, sizes, precisions, width or 0, implementations):
        if keep:
            words = (case.experiment, case.program, case.implementation, case.config.precision)
            name = "-".join((*words, str(case.config.batch_size))).replace("/", "-")
            case = replace(case, keep=str((keep / f"{name}.hlo").absolute()))
        row = compile_case(case)
        document["results"].append(row)
        if told != row["experiment"]:
            told = row["experiment"]
            say(f"{told}\n{_aligned({name: name for name, *_ in FIGURES})}", as_json)
        say(line(row), as_json)
        if output:
            _write(output, document)
    if output:
        say(f"results {output}", as_json)
    if as_json:
        emit_json(document)
    _conclude(document["results"], target, chips)


def _cases(
    text: str, configs: Mapping[str, Config], modes: Sequence[str], sizes: Sequence[int],
    precisions: Sequence[str], width: int, implementations: Sequence[str],
) -> Iterator[Case]:  # fmt: skip
    """Every combination; evaluation once, since it has its own batch size."""
    for name, config in configs.items():
        for mode in modes:
            for size in (sizes if mode == "train" else ()) or [config.batch_size]:
                for precision in precisions or [config.precision]:
                    settings: dict[str, Any] = {"batch_size": size, "precision": precision}
                    own = replace(config, **settings)
                    for each in implementations:
                        yield Case(name, own, text, PROGRAMS[mode], each, width)


def line(row: Mapping[str, Any]) -> str:
    """A row of the table; in a narrow terminal its foremost figures."""
    cells = {"program": row["program"], "by": row["implementation"], "precision": row["precision"]}
    if "error" in row:
        return f"{_aligned(cells)} failed: {row['error']}"
    longest = max(row["bounds"], key=row["bounds"].get)
    cells |= {
        "kernels": str(row["kernels"]),
        "launches": "-" if row["launches"] is None else f"{row['launches']}+{row['call_launches']}",
        "conv": str(sum(row["convolutions"].values())),
        "transp": str(row["transposes"]),
        "exchanges": str(sum(row["collectives"].values())),
        "MB": f"{row['bytes_accessed'] / 1e6:,.1f}",
        "cycles": "-" if row["cycles"] is None else f"{row['cycles']:,}",
        "temporary": f"{row['temporary_bytes'] / 2**20:,.1f} MiB",
        "at least": f"{row['bounds'][longest] * 1e6:,.1f} us",
    }
    return f"{_aligned(cells)} by {longest}{'' if row['fits'] else ', does not fit'}"


def _aligned(cells: Mapping[str, str]) -> str:
    """Those of the cells that the terminal has room for, each as wide as its column."""
    narrow = (columns() or WIDE) < WIDE
    shown = [(name, width) for name, width, foremost in FIGURES
             if name in cells and (foremost or not narrow)]  # fmt: skip
    return " ".join(f"{cells[name]:<{width}}" if name in LEFT else f"{cells[name]:>{width}}"
                    for name, width in shown)  # fmt: skip


def _conclude(rows: Sequence[Mapping[str, Any]], target: Target, chips: int) -> None:
    for row in rows:
        if row["fits"] is False:
            needed = [row[name] for name in ("temporary_bytes", "argument_bytes", "output_bytes")
                      if name in row]  # fmt: skip
            what = f"needs {sum(needed):,} bytes" if needed else f"does not fit ({row['error']})"
            raise ConfigError(
                f"{row['experiment']}: {row['program']} {what}; one {target.name} has "
                f"{target.memory:,} bytes of memory"
            )
    failed = next((row for row in rows if "error" in row), None)
    if failed:
        wrong = ConfigError if failed["kind"] == "config" else FlaxcnnError
        raise wrong(f"{failed['experiment']}: {failed['program']}: {failed['error']}")
    used = {row["run_devices"] for row in rows}
    if chips > 1 and used != {chips}:
        several = ", ".join(map(str, sorted(used)))
        note(f"`flaxcnn train` would use {several} of the {chips} chips: a batch has too few rows")


def _write(path: Path, document: Mapping[str, Any]) -> None:
    write_atomic(path, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())
