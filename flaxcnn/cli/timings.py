"""What `flaxcnn bench` prints and writes, and `bench --compare` of two such files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from flaxcnn.cli.output import emit_json, note, say, table
from flaxcnn.errors import ConfigError, WriteError
from flaxcnn.records.files import check_suffix, write_atomic

PICTURES = (".pdf", ".svg", ".png")
HEADER = (
    f"{'mode':5} {'batch':>6} {'dtype':5} {'images/s':>11} {'lowest to highest':>23} "
    f"{'of peak':>7} {'compile':>7} {'memory':>9}"
)


def lines(results: Sequence[Mapping[str, Any]], peak: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The cases of one experiment below its name, at most 80 columns wide; then the peaks."""
    yield results[0]["experiment"]
    yield HEADER
    yield from map(_line, results)
    yield from map(_peak_line, peak)


def _line(row: Mapping[str, Any]) -> str:
    start = f"{row['mode']:5} {row['batch_size']:>6} {row['dtype']:5}"
    if row["images_per_second"] is None:
        return f"{start}  failed: {row['error']}"
    low, high = row["spread"]
    between = f"{low:,.0f} to {high:,.0f}"
    share = "-" if row["share_of_peak"] is None else f"{row['share_of_peak']:.0%}"
    memory = "-" if row["bytes"] is None else f"{row['bytes'] / 2**20:,.0f} MiB"
    failed = f"  profile failed: {row['error']}" if "error" in row else ""
    return (
        f"{start} {row['images_per_second']:>11,.0f} {between:>23} {share:>7} "
        f"{row['compile_seconds']:>5.1f} s {memory:>9}{failed}"
    )


def _peak_line(row: Mapping[str, Any]) -> str:
    if "error" in row:
        return f"peak {row['dtype']}: failed: {row['error']}"
    devices = "1 device" if row["devices"] == 1 else f"{row['devices']} devices"
    return (
        f"peak {row['dtype']}: {row['peak_flops_per_second'] / 1e9:,.1f} Gflop/s, matrix product "
        f"of {row['size']} x {row['size']} on {devices}"
    )


def check_files(output: Path | None, plot: Path | None, profile: Path | None) -> None:
    """Fail now rather than after minutes of measuring.

    Raises:
        ConfigError: the name says another kind of file.
        WriteError: no file can be written there.
    """
    for option, path in (("--output", output), ("--plot", plot)):
        if path is None:
            continue
        folder = path.absolute().parent
        if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
            raise WriteError(
                f"{option} {path}: cannot be written; give a file in a writable folder"
            )
    if output is not None:
        check_suffix("--output", output, ".json")
    if plot is not None:
        check_suffix("--plot", plot, *PICTURES)
    if profile is not None:
        try:
            profile.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"--profile {profile}: {error.strerror}") from error


def conclude(
    document: dict[str, Any], output: Path | None, plot: Path | None, profile: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Write files and the JSON document; exit with 1 if a case failed."""
    if any(round(row["share_of_peak"] or 0, 2) > 1 for row in document["results"]):
        say("Above 100 %: other work took time from the matrix product and not from the\n"
            "network. Measure again on a quiet machine.", as_json)  # fmt: skip
    if output:
        say(f"results {output}", as_json)
    if plot:
        from flaxcnn.records.timings import Timings
        from flaxcnn.reports import timings
        from flaxcnn.reports.print_style import write_picture

        machine = Timings("", [], document["environment"]).machine
        write_picture(plot, timings.rates(document["results"], machine))
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


def write(path: Path, document: Mapping[str, Any]) -> None:
    """Write the JSON document, whole or not at all."""
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    write_atomic(path, text.encode())


# -- two files -----------------------------------------------------------------------------------


def compare(names: Sequence[str], plot: Path | None, as_json: bool) -> None:
    """Print the ratios of the second file to the first, and draw them.

    Raises:
        CheckpointError: a file is not what `bench` writes.
        ConfigError: not two files, no case in common, or a picture of another kind.
    """
    from flaxcnn.records.timings import APART_NOTE, ratio_table, ratios, read_timings

    files, plot = [Path(name).expanduser() for name in names], plot and plot.expanduser()
    if len(files) != 2:
        raise ConfigError(f"--compare takes two files that --output wrote (got {len(files)})")
    check_files(None, plot, None)
    first, second = map(read_timings, files)
    found = ratios(first, second)
    for one in (first, second):
        say(f"{one.name}: {one.machine}", as_json)
    if left := len(first.results) + len(second.results) - 2 * len(found):
        note(f"{left} results are of cases that the other file lacks, or failed")
    say("", as_json)
    table(ratio_table(first, second, found).lines(), as_json, less=("range",))
    say(f"\n{APART_NOTE}", as_json)
    if plot is not None:
        from flaxcnn.reports import timings
        from flaxcnn.reports.print_style import write_picture

        write_picture(plot, timings.compared(first, second, found))
        say(f"plot {plot}", as_json)
    if as_json:
        emit_json({
            "first": {"file": str(files[0]), "machine": first.machine},
            "second": {"file": str(files[1]), "machine": second.machine},
            "ratios": [
                {"experiment": one.case[0], "mode": one.case[1], "batch_size": one.case[2],
                 "dtype": one.case[3], "first": one.first, "second": one.second,
                 "ratio": one.ratio, "range": [one.low, one.high], "apart": one.apart}
                for one in found
            ],
        })  # fmt: skip
