"""`flaxcnn bench`."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flaxcnn.activity import doing
from flaxcnn.cli import compiled, options, speedrun, timings
from flaxcnn.cli.output import command, note, quiet, say
from flaxcnn.cli.progress import Progress, progress
from flaxcnn.errors import ConfigError, near_miss, one_of
from flaxcnn.recipe import catalog
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.data import KNOWN_DATA
from flaxcnn.recipe.execution import PRECISIONS

if TYPE_CHECKING:
    from flaxcnn.bench import Case
    from flaxcnn.data.arrays import Dataset

MODES = ("train", "eval")
MODE = ",".join(MODES)
REPEATS, SECONDS = 5, 1.0
QUICK_REPEATS, QUICK_SECONDS = 3, 0.2  # of --quick: enough to see a factor, not a few percent

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
Repeats = Annotated[
    int | None, typer.Option("--repeats", help=f"Timed blocks per case (default {REPEATS}).")
]
Seconds = Annotated[
    float | None,
    typer.Option("--seconds", help=f"Approximate seconds per timed block (default {SECONDS:g})."),
]
Quick = Annotated[
    bool,
    typer.Option(
        "--quick", help=f"{QUICK_REPEATS} blocks of {QUICK_SECONDS:g} s: a factor, not percents."
    ),
]
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
    Path | None,
    typer.Option("--plot", help="Draw images per second, or the ratios: .png, .svg or .pdf."),
]
Compare = Annotated[
    bool,
    typer.Option(
        "--compare", help="Measure nothing: the arguments are two files that --output wrote."
    ),
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
    mode: Mode = MODE,
    repeats: Repeats = None,
    seconds: Seconds = None,
    quick: Quick = False,
    synthetic: Synthetic = False,
    profile: Profile = None,
    output: Output = None,
    plot: Plot = None,
    assignments: options.Assignments = None,
    compile_for: CompileFor = None,
    width: Width = None,
    implementation: Implementation = "both",
    compare: Compare = False,
    to_accuracy: speedrun.ToAccuracy = None,
    runs: speedrun.Runs = None,
    as_json: options.Json = False,
) -> None:
    """Measure images per second, and their share of the machine's peak.

    Prints the median of --repeats blocks, the lowest and the highest. The peak is that of a matrix
    product on all devices, measured in the same minutes.

    \b
    Examples:
      flaxcnn bench mnist-ladder/model10 --batch-sizes 64,128,256 --dtype f32,bf16
      flaxcnn bench cifar-tuning/model2 --synthetic --mode train --json
      flaxcnn bench --quick --profile traces --output bench.json --plot bench.png
      flaxcnn bench mnist-ladder/model10 --compile-for h200 --mode train
      flaxcnn bench --to-accuracy 0.94 --runs 5 cifar-speed/94
      flaxcnn bench --compare laptop.json h200.json --plot ratios.pdf
    """
    if compare:
        timings.compare(experiments or [], plot, as_json)
        return
    speedrun.check(to_accuracy, runs, {
        "--batch-sizes": batch_sizes, "--dtype": dtype, "--mode": mode != MODE,
        "--repeats": repeats, "--seconds": seconds, "--quick": quick, "--synthetic": synthetic,
        "--profile": profile, "--plot": plot, "--compile-for": compile_for,
    })  # fmt: skip
    repeats, seconds = _effort(repeats, seconds, quick)
    modes, precisions, sizes = _choices(mode, dtype, batch_sizes)
    output, plot, profile = (path and path.expanduser() for path in (output, plot, profile))
    timings.check_files(output, plot, profile)
    configs = _configs(experiments or [catalog.DEFAULT_EXPERIMENT], assignments or [])
    if to_accuracy is not None:
        speedrun.run(to_accuracy, runs, configs, output, as_json)
        return
    _check_unmeasured(compile_for, plot, synthetic, width, implementation)
    if compile_for:
        compiled.run(compile_for, configs, modes, sizes, precisions, width, implementation, output,
                     profile, as_json)  # fmt: skip
        return
    cases, data = _all_cases(configs, modes, sizes, precisions, synthetic)
    with progress(as_json, lines=False) as bar:
        document = _measured(cases, data, seconds, repeats, profile, output, bar, as_json)
    timings.conclude(document, output, plot, profile, as_json)


def _all_cases(
    configs: Mapping[str, Config], modes: list[str], sizes: list[int], precisions: list[str],
    synthetic: bool,
) -> tuple[list[list[Case]], dict[str, Dataset]]:  # fmt: skip
    """The cases of each recipe, all of which fit their data, and the data."""
    data = _load(configs.values(), synthetic)
    for config in configs.values():
        _check_fits(config, sizes, modes, data[config.dataset])
    if sizes and "eval" in modes:
        note("--batch-sizes applies to training only; evaluation has its own batch size")
    return [_cases(*recipe, modes, sizes, precisions) for recipe in configs.items()], data


def _measured(
    cases: list[list[Case]], data: Mapping[str, Dataset], seconds: float, repeats: int,
    profile: Path | None, output: Path | None, bar: Progress, as_json: bool,
) -> dict[str, Any]:  # fmt: skip
    """The JSON document of all cases, each printed and written as soon as it is measured."""
    quiet()
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
    for before, group in enumerate(cases):
        results, peak = measure(
            group, data[group[0].config.dataset], seconds, repeats, profile,
            functools.partial(_turn, bar, before, len(cases)),
        )  # fmt: skip
        document["results"] += plain(results)
        document["peak"] += plain(peak)
        for line in timings.lines(results, peak):
            say(line, as_json)
        if output:
            timings.write(output, document)
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


def _choices(
    mode: str, dtype: str | None, batch_sizes: str | None
) -> tuple[list[str], list[str], list[int]]:
    """Modes, precisions and training batch sizes; the latter two empty where not given."""
    precisions = [PRECISIONS[word] for word in _words("--dtype", dtype, PRECISIONS)]
    return _words("--mode", mode, MODES), precisions, _sizes(batch_sizes)


def _check_unmeasured(
    compile_for: str | None, plot: Path | None, synthetic: bool, width: int | None,
    implementation: str,
) -> None:  # fmt: skip
    """What goes only with programs that are compiled and not measured, or never with them."""
    if not compile_for and (width is not None or implementation != "both"):
        raise ConfigError("--width and --implementation need --compile-for")
    if compile_for and (plot or synthetic):
        raise ConfigError(
            "--compile-for measures nothing, so --plot and --synthetic do not apply; --output and "
            "--profile write the compiled programs"
        )


def _effort(repeats: int | None, seconds: float | None, quick: bool) -> tuple[int, float]:
    """Blocks of a case, and seconds of each."""
    repeats = (QUICK_REPEATS if quick else REPEATS) if repeats is None else repeats
    seconds = (QUICK_SECONDS if quick else SECONDS) if seconds is None else seconds
    if repeats < 1:
        raise ConfigError(f"--repeats must be at least 1 (got {repeats})")
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ConfigError(f"--seconds must be a finite number above 0 (got {seconds:g})")
    return repeats, seconds


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
