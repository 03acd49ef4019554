"""The package's programs beside plain ones as the compilers of H200 and TPU v5e make them.

python -m benchmarks.compiled [--only TEXT]   needs no accelerator, but hours; goes on where it was
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers import models
from flaxcnn.accelerators.cases import IMPLEMENTATIONS, Case, compile_case
from flaxcnn.accelerators.targets import TARGETS

RESULTS = Path(__file__).parent / "results" / "compiled.json"
PAGE = Path(__file__).parents[1] / "docs" / "accelerators.md"
NETS = ("mnist-ladder/model10", "batchnorm-cnn", "cifar-tuning/model1", "digits/quickstart",
        "mnist-archs/arch1-k7", "resnet18-cifar")  # fmt: skip
SHARED = ("mnist-ladder/model10", "batchnorm-cnn")  # by 8 devices
STACK = 8  # runs side by side
NONE = "-"  # of a program that is not there: its compiler takes too long, or more than 15 GB


def cases() -> Iterator[Case]:
    """All of them, the quick and the telling ones first."""
    for net in NETS:
        for precision in ("float32", "bfloat16"):
            for implementation in IMPLEMENTATIONS:
                yield case(net, "h200", precision, implementation)
    for net in SHARED:
        yield case(net, "h200:8", "float32")
    # On a TPU a product of float32 numbers is six: its compiler takes several times as long
    for precision in ("bfloat16", "float32"):
        for net in NETS:
            for implementation in IMPLEMENTATIONS:
                yield case(net, "v5e", precision, implementation)
        yield dataclasses.replace(case(SHARED[0], "v5e", precision), width=STACK)
        for net in SHARED:
            yield case(net, "v5e:8", precision)


def case(net: str, target: str, precision: str, implementation: str = "flaxcnn") -> Case:
    """A training program of a network of this file."""
    config = dataclasses.replace(models.find(net), precision=precision)
    return Case(net, config, target, implementation=implementation)


def key(one: Case) -> str:
    """A name for a row."""
    words = (one.experiment, one.target, one.program, one.config.precision, one.implementation)
    return " ".join([*words, *([f"x{one.width}"] if one.width else [])])


# -- the page ------------------------------------------------------------------------------------


def cycles(row: dict[str, Any]) -> float:
    """Estimated ones, and what the bytes without an estimate take at the bandwidth of memory."""
    v5e = TARGETS[row["target"]]
    return row["cycles"] + row["unestimated_bytes"] / v5e.bandwidth * v5e.clock


def tables(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown of what is there."""
    return "\n\n".join(
        table
        for table in (_one_chip(rows, "h200"), _one_chip(rows, "v5e"), _several(rows))
        if table
    )


def _one_chip(rows: dict[str, dict[str, Any]], target: str) -> str:
    gpu = target == "h200"
    head = "kernels | launches | MB" if gpu else "cycles | MB | MB in main memory"
    of = (
        {"MB": lambda r: r["bytes_accessed"]}
        if gpu
        else {"cycles": cycles, "estimated cycles alone": lambda r: r["cycles"],
              "MB": lambda r: r["bytes_accessed"]}
    )  # fmt: skip
    lines = [
        f"One step on one {target}, flaxcnn / plain Flax:\n",
        f"| network | precision | {head} | {' | '.join(f'{name}, ratio' for name in of)} |",
        f"|---|---|{'---:|' * (3 + len(of))}",
    ]
    for net in NETS:
        for precision in ("float32", "bfloat16"):
            both = [rows.get(key(case(net, target, precision, each))) for each in IMPLEMENTATIONS]
            ours, plain = (row if row and "error" not in row else None for row in both)
            if ours is None:
                continue
            what = (
                [lambda r: r["kernels"], lambda r: r["launches"],
                 lambda r: f"{r['bytes_accessed'] / 1e6:,.1f}"]
                if gpu
                else [lambda r: f"{cycles(r):,.0f}", lambda r: f"{r['bytes_accessed'] / 1e6:,.1f}",
                      lambda r: f"{r['main_bytes'] / 1e6:,.1f}"]
            )  # fmt: skip
            cells = [f"{one(ours)} / {one(plain) if plain else NONE}" for one in what]
            cells += [f"{one(ours) / one(plain):.2f}" if plain else NONE for one in of.values()]
            lines.append(f"| {net} | {precision} | {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 3 else ""


def _several(rows: dict[str, dict[str, Any]]) -> str:
    lines = [
        "Several devices, or runs side by side:\n",
        "| network | precision | on | exchanges a step | kernels | MB | cycles |",
        "|---|---|---|---|---:|---:|---:|",
    ]
    for row in rows.values():
        if "error" in row or (row["chips"] == 1 and not row["width"]):
            continue
        on = f"{row['chips']} x {row['target']}"
        on += f", {row['width']} runs" if row["width"] else ""
        exchanged = ", ".join(f"{n} {kind}" for kind, n in row["collectives"].items()) or "none"
        lines.append(
            f"| {row['experiment']} | {row['precision']} | {on} | {exchanged} | {row['kernels']} | "
            f"{row['bytes_accessed'] / 1e6:,.1f} | "
            f"{'-' if row['cycles'] is None else format(cycles(row), ',.0f')} |"
        )
    return "\n".join(lines) if len(lines) > 3 else ""


def write_page(rows: dict[str, dict[str, Any]]) -> None:
    """The tables of docs/accelerators.md."""
    begin, end = "<!-- compiled -->", "<!-- /compiled -->"
    before, rest = PAGE.read_text().split(begin)
    after = rest.split(end)[1]
    PAGE.write_text(f"{before}{begin}\n\n{tables(rows)}\n\n{end}{after}")


# -- the run -------------------------------------------------------------------------------------


def commit() -> str:
    """Of the code that is compiled."""
    words = ["git", "describe", "--always", "--dirty", "--abbrev=7"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Compile what is not there yet; each row is written as soon as it is found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="part of a case's name")
    parser.add_argument("--keep", type=Path, help="folder for the optimized HLO of each case")
    parser.add_argument("--again", action="store_true", help="also what is there already")
    parser.add_argument("--page", action="store_true", help="only write docs/accelerators.md")
    chosen = parser.parse_args()
    document: dict[str, Any] = {"results": []}
    if RESULTS.exists():
        document = json.loads(RESULTS.read_text())
    rows = {row["case"]: row for row in document["results"]}
    if chosen.page:
        write_page(rows)
        return
    for one in cases():
        name = key(one)
        known = name in rows and "error" not in rows[name] and not chosen.again
        if known or chosen.only not in name:
            continue
        if chosen.keep:
            one = dataclasses.replace(
                one, keep=str(chosen.keep / f"{re.sub('[ /]', '-', name)}.hlo")
            )
        rows[name] = {"case": name, "commit": commit(), **compile_case(one)}
        row = rows[name]
        print(name, {k: row.get(k) for k in ("kernels", "launches", "bytes_accessed", "cycles",
              "compile_seconds", "error")}, flush=True)  # fmt: skip
        document["results"] = [rows[key(each)] for each in cases() if key(each) in rows]
        RESULTS.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
