"""Results as text: one line a model and peer, and what the comparison comes to."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.record import comparison

HEAD = ("model", "peer", "train img/s", "quartiles", "eval img/s", "build s", "peak MB",
        "first step cold", "warm", "whole s")  # fmt: skip


def text(results: dict[str, Any], models: tuple[str, ...], dtype: str) -> str:
    """The rows of `models`, and flaxcnn's ratio to the peers that were measured in turn with it."""
    grid: dict[tuple[str, str], dict[str, Any]] = {}
    for row in results["rows"]:
        if row["dtype"] == dtype and row["model"] in models:
            grid.setdefault((row["model"], row["peer"]), {})[row["group"]] = row
    order = sorted(grid, key=lambda pair: models.index(pair[0]))
    lines = [HEAD, *(_cells(model, peer, grid[model, peer]) for model, peer in order)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    shown = ["  ".join(_aligned(line, widths)).rstrip() for line in lines]
    shown += _failures(grid)
    return "\n".join([*shown, "", *_ratios(comparison(results, dtype), models)])


def _aligned(line: tuple[str, ...], widths: list[int]) -> list[str]:
    return [cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))]  # fmt: skip


def _cells(model: str, peer: str, groups: dict[str, Any]) -> tuple[str, ...]:
    blank = {"failed": True}
    fast, first, whole = (groups.get(name, blank) for name in ("throughput", "start", "whole"))
    cells = ["failed" if "throughput" in groups else "-", *["-"] * 4]
    if "failed" not in fast:
        train, evaluate = fast["train_images_per_second"], fast["eval_images_per_second"]
        cells = [
            f"{train['median']:,.0f}",
            f"{train['lower_quartile']:,.0f}..{train['upper_quartile']:,.0f}",
            f"{evaluate['median']:,.0f}", f"{fast['build_seconds']:.1f}",
            f"{fast['peak_bytes'] / 2**20:,.0f}",
        ]  # fmt: skip
    cells += (
        ["-", "-"] if "failed" in first
        else [f"{first['cold_seconds']:.1f}", f"{first['warm_seconds']['median']:.1f}"]
    )  # fmt: skip
    cells.append("-" if "failed" in whole else f"{whole['whole_seconds']['median']:.1f}")
    return (model, peer, *cells)


def _failures(grid: dict[tuple[str, str], dict[str, Any]]) -> list[str]:
    return [
        f"failed: {model}, {peer}, {group}: {row['failed']}"
        for (model, peer), groups in grid.items()
        for group, row in groups.items()
        if "failed" in row
    ]


def _ratios(found: dict[str, Any], models: tuple[str, ...]) -> list[str]:
    lines = []
    for entry in found["models"]:
        train, evaluate = entry["train"], entry["eval"]
        if entry["model"] in models and train["best_peer"]:
            lines.append(
                f"{entry['model']}: flaxcnn is {train['ratio_to_best']:.2f} times the fastest peer "
                f"in training ({train['best_peer']}) and {evaluate['ratio_to_best']:.2f} times in "
                f"evaluation ({evaluate['best_peer']})"
            )
    for phase, name in (("train", "training"), ("eval", "evaluation")):
        means = found["geometric_mean"][phase]
        if means["best"]:
            each = ", ".join(f"{peer} {value:.2f}" for peer, value in means["peers"].items())
            lines.append(f"geometric mean in {name}: {means['best']:.2f} to the fastest; {each}")
    return lines
