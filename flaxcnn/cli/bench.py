"""`flaxcnn bench`."""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flaxcnn.activity import doing
from flaxcnn.cli import compiled, options
from flaxcnn.cli.output import command, emit_json, note, quiet, say
from flaxcnn.cli.progress import Progress, progress
from flaxcnn.errors import ConfigError, WriteError, near_miss, one_of
from flaxcnn.recipe import catalog
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.data import KNOWN_DATA
from flaxcnn.recipe.execution import PRECISIONS

if TYPE_CHECKING:
    from flaxcnn.bench import Case
    from flaxcnn.data.arrays import Dataset

MODES = ("train", "eval")
HEADER = (
    f"{'experiment':30} {'mode':5} {'batch':>6} {'dtype':5} {'images/s':>11} "
    f"{'lowest to highest':>23} {'Gflop/s':>9} {'of peak':>7} {'compile':>8} {'memory':>10}"
)


Experiments = Annotated[
    list[str] | None,
    typer.Argument(help=f"Names or FILE.py:NAME (default {catalog.DEFAULT_EXPERIMENT})."),
]
BatchSizes = Annotated[
    str | None,
    typer.Option(
        "--batch-sizes",
        metavar="64,128",
        help="Training batch sizes (default the recipe's).",
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype", metavar="f32,bf16", help="Any of f32, tf32, bf16 (default the recipe's)."
    ),
]
Mode = Annotated[str, typer.Option("--mode", help="train, eval, or both.")]
Repeats = Annotated[int, typer.Option("--repeats", help="Timed blocks per case.")]
Seconds = Annotated[float, typer.Option("--seconds", help="Approximate seconds per timed block.")]
Synthetic = Annotated[
    bool, typer.Option("--synthetic", help="Use random images instead of the data set.")
]
Profile = Annotated[
    Path | None, typer.Option("--profile", help="Write a profiler trace of each case here.")
]
Output = Annotated[
    Path | None, typer.Option("--output", help="Write the JSON document to this file.")
]
Plot = Annotated[
    Path | None, typer.Option("--plot", help="Plot images per second to this PNG file.")
]
CompileFor = Annotated[
    str | None,
    typer.Option(
        "--compile-for",
        metavar="CHIP[:CHIPS]",
        help="Do not measure, but compile for h200, h100, a100, v5e, v6e or v5p and count.",
    ),
]
Width = Annotated[
    int | None, typer.Option("--width", help="With --compile-for: runs side by side on a chip.")
]
Implementation = Annotated[
    str,
    typer.Option(
        "--implementation",
        help="With --compile-for: flaxcnn, flax (linen and optax) or both.",
    ),
]


@command
def bench(
    experiments: Experiments = None,
    batch_sizes: BatchSizes = None,
    dtype: Dtype = None,
    mode: Mode = "train,eval",
    repeats: Repeats = 5,
    seconds: Seconds = 1.0,
    synthetic: Synthetic = False,
    profile: Profile = None,
    output: Output = None,
    plot: Plot = None,
    assignments: options.Assignments = None,
    compile_for: CompileFor = None,
    width: Width = None,
    implementation: Implementation = "both",
    as_json: options.Json = False,
) -> None:
    """Measure images per second, and their share of the machine's peak.

    Prints the median of --repeats blocks, the lowest and the highest. The peak is that of a matrix
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
    configs = _configs(experiments or [catalog.DEFAULT_EXPERIMENT], assignments or [])
    if compile_for:
        _check_unmeasured(plot, synthetic)
        compiled.run(compile_for, configs, modes, sizes, precisions, width, implementation, output,
                     profile, as_json)  # fmt: skip
        return
    if width is not None or implementation != "both":
        raise ConfigError("--width and --implementation need --compile-for")
    data = _load(configs.values(), synthetic)
    for config in configs.values():
        _check_fits(config, sizes, modes, data[config.dataset])
    if sizes and "eval" in modes:
        note("--batch-sizes applies to training only; evaluation has its own batch size")
    cases = [_cases(*recipe, modes, sizes, precisions) for recipe in configs.items()]
    quiet()
    with progress(as_json, lines=False) as bar:
        document = _measured(cases, data, seconds, repeats, profile, output, bar, as_json)
    _conclude(document, output, plot, profile, as_json)


def _measured(
    cases: list[list[Case]], data: Mapping[str, Dataset], seconds: float, repeats: int,
    profile: Path | None, output: Path | None, bar: Progress, as_json: bool,
) -> dict[str, Any]:  # fmt: skip
    """The JSON document of all cases, each printed and written as soon as it is measured."""
    with doing("starting JAX"):
        from flaxcnn.backend import prepare
        from flaxcnn.bench import measure
        from flaxcnn.records.environment import environment
        from flaxcnn.records.files import plain

        prepare(cache=False)  # before `environment` looks for devices
    document: dict[str, Any] = {"results": [], "peak": [], "environment": environment()}
    reduced = any(case.dtype == "bf16" for group in cases for case in group)
    if reduced and document["environment"]["backend"] == "cpu":
        note("bf16: a CPU emulates bfloat16 in float32 and gains nothing from it")
    say(HEADER, as_json)
    for before, group in enumerate(cases):
        results, peak = measure(
            group, data[group[0].config.dataset], seconds, repeats, profile,
            functools.partial(_turn, bar, before, len(cases)),
        )  # fmt: skip
        document["results"] += plain(results)
        document["peak"] += plain(peak)
        for line in (*map(_line, results), *map(_peak_line, peak)):
            say(line, as_json)
        if output:
            _write_json(output, document)
    return document


def _turn(bar: Progress, before: int, groups: int, done: int, of: int) -> None:
    """So many turns of an experiment are done, and so many experiments before it."""
    if not bar.total:
        bar.plan(groups, "experiment")
    bar.at(before + done / of)


# -- options ---------------------------------------------------------------------------------


def _configs(names: Sequence[str], assignments: Sequence[str]) -> dict[str, Config]:
    """The recipes by name."""
    recipes = [catalog.find(name) for name in names]
    return {each.name: catalog.resolve(each, assignments=assignments)[0] for each in recipes}


def _check_unmeasured(plot: Path | None, synthetic: bool) -> None:
    if plot or synthetic:
        raise ConfigError(
            "--compile-for measures nothing, so --plot and --synthetic do not apply; --output and "
            "--profile write the compiled programs"
        )


def _check_numbers(repeats: int, seconds: float) -> None:
    if repeats < 1:
        raise ConfigError(f"--repeats must be at least 1 (got {repeats})")
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ConfigError(f"--seconds must be a finite number above 0 (got {seconds:g})")


def _words(option: str, text: str | None, known: Iterable[str]) -> list[str]:
    """The comma-separated words of an option, each once; none where it was not given."""
    words = [] if text is None else list(dict.fromkeys(w.strip() for w in text.split(",")))
    for word in words:
        if word not in known:
            raise ConfigError(
                f"{option} takes {', '.join(known)}, separated by commas (got {word!r})"
                f"{near_miss(word, known)}"
            )
    return words


def _sizes(text: str | None) -> list[int]:
    words = [] if text is None else [word.strip() for word in text.split(",")]
    for word in words:
        if not (word.isascii() and word.isdigit() and int(word) >= 1):
            raise ConfigError(
                f"--batch-sizes takes integers of at least 1, separated by commas (got {word!r})"
            )
    return list(dict.fromkeys(map(int, words)))


def _check_files(output: Path | None, plot: Path | None, profile: Path | None) -> None:
    """Fail now rather than after minutes of measuring."""
    for option, path in (("--output", output), ("--plot", plot)):
        if path is None:
            continue
        folder = path.absolute().parent
        if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
            raise WriteError(
                f"{option} {path}: cannot be written; give a file in a writable folder"
            )
    if profile is not None:
        try:
            profile.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"--profile {profile}: {error.strerror}") from error


def _load(recipes: Iterable[Config], synthetic: bool) -> dict[str, Dataset]:
    """The data set of every recipe, before jax is imported, so that missing data fails at once."""
    names = dict.fromkeys(config.dataset for config in recipes)
    if not synthetic:
        from flaxcnn.data.datasets import load_for, require_resident

        data = {}
        for config in recipes:
            data[config.dataset] = load_for(config)
            require_resident(config, data[config.dataset], "bench")
        return data
    for name in names:
        if name not in KNOWN_DATA:
            raise ConfigError(
                f"--synthetic needs a data set of known shape, {one_of(KNOWN_DATA)} (got {name!r})"
            )
    from flaxcnn.bench import synthetic as make

    return {name: make(name) for name in names}


def _check_fits(config: Config, sizes: list[int], modes: list[str], data: Dataset) -> None:
    config.check_on(data.shape, data.num_classes)
    largest = max(sizes, default=config.batch_size)
    if "train" in modes and largest > len(data.train):
        what = "--batch-sizes" if sizes else "batch_size"
        raise ConfigError(
            f"{what} must be at most {len(data.train)}, the training rows of {config.dataset} "
            f"(got {largest})"
        )


def _cases(
    name: str, config: Config, modes: list[str], sizes: list[int], precisions: list[str]
) -> list[Case]:
    """Every combination; evaluation once, since it has its own batch size."""
    from flaxcnn.bench import Case

    cases = []
    for mode in modes:
        for size in (sizes if mode == "train" else []) or [config.batch_size]:
            for precision in precisions or [config.precision]:
                settings: dict[str, Any] = {"batch_size": size, "precision": precision}
                cases.append(Case(name, mode, replace(config, **settings)))
    return cases


# -- output ---------------------------------------------------------------------------------------


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
    """Write files and the JSON document; exit with 1 if a case failed."""
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
    """Draw one bar per case: the median, with the lowest and the highest as error bar."""
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
