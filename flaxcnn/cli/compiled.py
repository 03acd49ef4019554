"""`flaxcnn bench --compile-for`: programs compiled for chips that this machine does not have."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flaxcnn.accelerators.cases import IMPLEMENTATIONS, Case, compile_case, folder, versions
from flaxcnn.accelerators.targets import Target, parse
from flaxcnn.cli.output import emit_json, note, say
from flaxcnn.errors import ConfigError, FlaxcnnError, check_choice, one_of
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.data import KNOWN_DATA
from flaxcnn.records.files import write_atomic

PROGRAMS = {"train": "train_epoch", "eval": "evaluate"}  # --mode -> the program
HEADER = (
    f"{'experiment':24} {'program':11} {'by':7} {'precision':9} {'kernels':>7} {'launches':>8} "
    f"{'conv':>4} {'transp':>6} {'exchanges':>9} {'MB':>9} {'cycles':>11} {'temporary':>11} "
    f"{'at least':>10}"
)


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
    say(HEADER, as_json)
    for case in _cases(text, configs, modes, sizes, precisions, width or 0, implementations):
        if keep:
            words = (case.experiment, case.program, case.implementation, case.config.precision)
            name = "-".join((*words, str(case.config.batch_size))).replace("/", "-")
            case = replace(case, keep=str((keep / f"{name}.hlo").absolute()))
        row = compile_case(case)
        document["results"].append(row)
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
    """A row of the table."""
    start = (
        f"{row['experiment']:24} {row['program']:11} {row['implementation']:7} "
        f"{row['precision']:9} "
    )
    if "error" in row:
        return f"{start}failed: {row['error']}"
    launches = "-" if row["launches"] is None else f"{row['launches']}+{row['call_launches']}"
    cycles = "-" if row["cycles"] is None else f"{row['cycles']:,}"
    longest = max(row["bounds"], key=row["bounds"].get)
    fits = "" if row["fits"] else "  does not fit"
    return (
        f"{start}{row['kernels']:>7} {launches:>8} {sum(row['convolutions'].values()):>4} "
        f"{row['transposes']:>6} {sum(row['collectives'].values()):>9} "
        f"{row['bytes_accessed'] / 1e6:>9,.1f} {cycles:>11} "
        f"{row['temporary_bytes'] / 2**20:>7,.1f} MiB "
        f"{row['bounds'][longest] * 1e6:>7,.1f} us by {longest}{fits}"
    )


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
