"""`flaxcnn bench`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flaxcnn.cli import compiled
from flaxcnn.cli.options import ASSIGNMENTS, JSON
from flaxcnn.cli.output import command, emit_json, note, quiet, say
from flaxcnn.errors import ConfigError, WriteError, near_miss
from flaxcnn.recipe import catalog
from flaxcnn.recipe.config import KNOWN_DATA, Config

if TYPE_CHECKING:
    from flaxcnn.bench import Case
    from flaxcnn.data.arrays import Dataset

PRECISIONS = {
    "f32": "float32",
    "tf32": "tensorfloat32",
    "bf16": "bfloat16",
}  # --dtype -> Config.precision
MODES = ("train", "eval")
COMPILE_FOR = typer.Option(
    None, "--compile-for", metavar="CHIP[:CHIPS]",
    help="Measure nothing: compile for h200, h100, a100, v5e, v6e or v5p, and count.",
)  # fmt: skip
WIDTH = typer.Option(None, "--width", help="Runs side by side on a chip to compile for.")
IMPLEMENTATION = typer.Option(
    "both", "--implementation", help="What to compile: flaxcnn, flax (linen and optax) or both."
)
HEADER = (
    f"{'experiment':30} {'mode':5} {'batch':>6} {'dtype':5} {'images/s':>11} "
    f"{'lowest to highest':>23} {'Gflop/s':>9} {'of peak':>7} {'compile':>8} {'memory':>10}"
)


@command
def bench(
    experiments: list[str] = typer.Argument(
        None, help=f"Names or FILE.py:NAME; {catalog.DEFAULT_EXPERIMENT} without one."
    ),
    batch_sizes: str = typer.Option(
        None, "--batch-sizes", metavar="64,128", help="Of training; default the recipe's own."
    ),
    dtype: str = typer.Option(
        None, "--dtype", metavar="f32,bf16", help="f32, tf32, bf16; default the recipe's own."
    ),
    mode: str = typer.Option("train,eval", "--mode", help="train, eval, or both."),
    repeats: int = typer.Option(5, "--repeats", help="Timed blocks of each case."),
    seconds: float = typer.Option(1.0, "--seconds", help="What one block takes, about."),
    synthetic: bool = typer.Option(
        False, "--synthetic", help="Random images of the data set's shape: no data needed."
    ),
    profile: Path = typer.Option(None, "--profile", help="Write a trace of each case there."),
    output: Path = typer.Option(None, "--output", help="Write the JSON document to this file."),
    plot: Path = typer.Option(None, "--plot", help="Draw images per second to this PNG file."),
    assignments: list[str] = ASSIGNMENTS,
    compile_for: str = COMPILE_FOR,
    width: int = WIDTH,
    implementation: str = IMPLEMENTATION,
    as_json: bool = JSON,
) -> None:
    """Measure images per second, and their share of the machine's peak.

    The medians of --repeats blocks, with the lowest and the highest. The peak is that of a matrix
    product on all devices, measured in the same minutes.

    \b
    Examples:
      flaxcnn bench mnist-ladder/model10 --batch-sizes 64,128,256 --dtype f32,bf16
      flaxcnn bench cifar-tuning/model2 --synthetic --mode train --json
      flaxcnn bench --profile traces --output bench.json --plot bench.png
      flaxcnn bench mnist-ladder/model10 --compile-for h200 --mode train
    """
    _check_numbers(repeats, seconds)
    modes = _words("--mode", mode, MODES)
    precisions = [PRECISIONS[word] for word in _words("--dtype", dtype, PRECISIONS)]
    sizes = _sizes(batch_sizes)
    output, plot, profile = (path and path.expanduser() for path in (output, plot, profile))
    _check_files(output, plot, profile)
    configs = _configs(experiments, assignments)
    if compile_for:
        _check_unmeasured(plot, synthetic)
        compiled.run(compile_for, configs, modes, sizes, precisions, width, implementation, output,
                     profile, as_json)  # fmt: skip
        return
    if width is not None or implementation != "both":
        raise ConfigError("--width, --implementation: allowed with --compile-for alone")
    data = _load(configs.values(), synthetic)
    for config in configs.values():
        _check_fits(config, sizes, modes, data[config.dataset])
    if sizes and "eval" in modes:
        note("--batch-sizes is for training; evaluation has a batch size of its own")
    cases = [_cases(*recipe, modes, sizes, precisions) for recipe in configs.items()]
    document = _measured(cases, data, seconds, repeats, profile, output, as_json)
    _conclude(document, output, plot, profile, as_json)


def _measured(
    cases: list[list[Case]], data: Mapping[str, Dataset], seconds: float, repeats: int,
    profile: Path | None, output: Path | None, as_json: bool,
) -> dict[str, Any]:  # fmt: skip
    """The JSON document of all experiments, each shown and written as soon as it is measured."""
    from flaxcnn.backend import prepare
    from flaxcnn.bench import measure
    from flaxcnn.records.environment import environment
    from flaxcnn.records.files import plain

    quiet()
    prepare(cache=False)  # before `environment` looks for devices
    document: dict[str, Any] = {"results": [], "peak": [], "environment": environment()}
    reduced = any(case.dtype == "bf16" for group in cases for case in group)
    if reduced and document["environment"]["backend"] == "cpu":
        note("bf16: a CPU computes bfloat16 by way of float32 and gains nothing from it")
    say(HEADER, as_json)
    for group in cases:
        results, peak = measure(group, data[group[0].config.dataset], seconds, repeats, profile)
        document["results"] += plain(results)
        document["peak"] += plain(peak)
        for line in (*map(_line, results), *map(_peak_line, peak)):
            say(line, as_json)
        if output:
            _write_json(output, document)
    return document


# -- what was asked for --------------------------------------------------------------------------


def _configs(experiments: list[str] | None, assignments: list[str]) -> dict[str, Config]:
    """The recipes by name."""
    recipes = [catalog.find(name) for name in experiments or [catalog.DEFAULT_EXPERIMENT]]
    return {one.name: catalog.resolve(one, assignments=assignments)[0] for one in recipes}


def _check_unmeasured(plot: Path | None, synthetic: bool) -> None:
    if plot or synthetic:
        raise ConfigError(
            "--plot, --synthetic: got one with --compile-for, which measures nothing; allowed "
            "beside it are --output and --profile, for the compiled programs"
        )


def _check_numbers(repeats: int, seconds: float) -> None:
    if repeats < 1:
        raise ConfigError(f"--repeats: got {repeats}; allowed is an integer of at least 1")
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ConfigError(f"--seconds: got {seconds:g}; allowed is x > 0")


def _words(option: str, text: str | None, known: Iterable[str]) -> list[str]:
    """The comma-separated words of an option, each once; none where it was not given."""
    words = [] if text is None else list(dict.fromkeys(w.strip() for w in text.split(",")))
    for word in words:
        if word not in known:
            raise ConfigError(
                f"{option}: got {word!r}; allowed are {', '.join(known)}, separated by commas"
                f"{near_miss(word, known)}"
            )
    return words


def _sizes(text: str | None) -> list[int]:
    words = [] if text is None else [word.strip() for word in text.split(",")]
    for word in words:
        if not (word.isascii() and word.isdigit() and int(word) >= 1):
            raise ConfigError(
                f"--batch-sizes: got {word!r}; allowed are integers of at least 1, "
                "separated by commas"
            )
    return list(dict.fromkeys(map(int, words)))


def _check_files(output: Path | None, plot: Path | None, profile: Path | None) -> None:
    """What would fail after minutes of measuring fails now."""
    for option, path in (("--output", output), ("--plot", plot)):
        if path is None:
            continue
        folder = path.absolute().parent
        if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
            raise WriteError(
                f"{option} {path}: cannot be written; allowed is a file in a folder that exists"
            )
    if profile is not None:
        try:
            profile.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"--profile {profile}: {error.strerror}") from error


def _load(recipes: Iterable[Config], synthetic: bool) -> dict[str, Dataset]:
    """The data set of every recipe, before jax is imported: missing data is said at once."""
    names = dict.fromkeys(config.dataset for config in recipes)
    if not synthetic:
        from flaxcnn.data.datasets import load_for, require_resident

        found = {}
        for config in recipes:
            found[config.dataset] = load_for(config)
            require_resident(config, found[config.dataset], "bench")
        return found
    for name in names:
        if name not in KNOWN_DATA:
            raise ConfigError(
                f"--synthetic: got dataset {name!r}, whose shape only its files tell; "
                f"allowed are {', '.join(KNOWN_DATA)}"
            )
    from flaxcnn.bench import synthetic as make

    return {name: make(name) for name in names}


def _check_fits(config: Config, sizes: list[int], modes: list[str], data: Dataset) -> None:
    config.table(data.shape, data.num_classes)
    largest = max(sizes, default=config.batch_size)
    if "train" in modes and largest > len(data.train):
        what = "--batch-sizes" if sizes else "batch_size"
        raise ConfigError(
            f"{what}: got {largest}; allowed are at most the {len(data.train)} training rows of "
            f"{config.dataset}"
        )


def _cases(
    name: str, config: Config, modes: list[str], sizes: list[int], precisions: list[str]
) -> list[Case]:
    """Every combination; evaluation once for all batch sizes, since it has its own."""
    from flaxcnn.bench import Case

    found = []
    for mode in modes:
        for size in (sizes if mode == "train" else []) or [config.batch_size]:
            for precision in precisions or [config.precision]:
                settings: dict[str, Any] = {"batch_size": size, "precision": precision}
                found.append(Case(name, mode, replace(config, **settings)))
    return found


# -- what is shown -------------------------------------------------------------------------------


def _line(row: Mapping[str, Any]) -> str:
    start = f"{row['experiment']:30} {row['mode']:5} {row['batch_size']:>6} {row['dtype']:5} "
    if row["images_per_second"] is None:
        return f"{start} failed: {row['error']}"
    low, high = row["spread"]
    between = f"{low:,.0f} to {high:,.0f}"
    share = "-" if row["share_of_peak"] is None else f"{row['share_of_peak']:.1%}"
    memory = "-" if row["bytes"] is None else f"{row['bytes'] / 2**20:,.1f} MiB"
    failed = f"  profile failed: {row['error']}" if "error" in row else ""
    return (
        f"{start}{row['images_per_second']:>11,.0f} {between:>23} "
        f"{row['flops_per_second'] / 1e9:>9,.1f} {share:>7} {row['compile_seconds']:>6.1f} s "
        f"{memory:>10}{failed}"
    )


def _peak_line(row: Mapping[str, Any]) -> str:
    if "error" in row:
        return f"peak {row['dtype']}: failed: {row['error']}"
    return (
        f"peak {row['dtype']}: {row['peak_flops_per_second'] / 1e9:,.1f} Gflop/s, matrix product "
        f"of {row['size']} x {row['size']} on {row['devices']} device(s)"
    )


def _conclude(
    document: dict[str, Any], output: Path | None, plot: Path | None, profile: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Files, the JSON document, and exit 1 if a case failed."""
    if output:
        say(f"results {output}", as_json)
    if plot:
        _draw(plot, document["results"])
        say(f"plot    {plot}", as_json)
    if profile:
        say(
            f"traces  {profile}\n"
            f"  TensorBoard: tensorboard --logdir {profile} (with tensorboard-plugin-profile)\n"
            "  Perfetto: open a perfetto_trace.json.gz below it in https://ui.perfetto.dev",
            as_json,
        )
    if as_json:
        emit_json(document)
    if any("error" in row for row in (*document["results"], *document["peak"])):
        raise typer.Exit(1)


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    from flaxcnn.records.files import write_atomic

    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    write_atomic(path, text.encode())


def _draw(path: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """One bar a case: the median, with the lowest and the highest as its error bar."""
    from matplotlib.figure import Figure

    rows = [row for row in results if row["images_per_second"] is not None]
    labels = [f"{r['experiment']} {r['mode']} {r['batch_size']} {r['dtype']}" for r in rows]
    rates = [row["images_per_second"] for row in rows]
    below = [row["images_per_second"] - row["spread"][0] for row in rows]
    above = [row["spread"][1] - row["images_per_second"] for row in rows]
    figure = Figure(figsize=(9, 1.2 + 0.4 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(rows)), rates, xerr=[below, above], capsize=3)
    axes.set_yticks(range(len(rows)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("images per second: median, lowest and highest")
    try:
        figure.savefig(path, format="png", dpi=150)
    except OSError as error:
        raise WriteError(f"{path}: cannot be written ({error.strerror})") from error
