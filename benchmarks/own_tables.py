"""The tables of networks of one's own, of exports and of fine-tuning, for `benchmarks.tables`."""

from __future__ import annotations

import statistics
from typing import Any


def where_from(document: dict[str, Any], packages: tuple[str, ...] = ()) -> str:
    """Machine, versions and revision, in one sentence."""
    where = document["environment"]
    versions = {**where["versions"], **document.get("packages", {})}
    named = ", ".join(f"{name} {versions[name]}" for name in ("jax", *packages))
    revision = document.get("source_revision", where.get("source_revision"))
    cores = where.get("cores", where.get("cpus"))
    return f"{where['processor']}, {cores} cores; {named}; source {str(revision)[:9]}."


def own_models(document: dict[str, Any]) -> str:
    """Steps of a linen module in the package, beside those of a loop written by hand."""
    lines = ["| | step | speed over the loop by hand | work per processor second over its |",
             "|---|---:|---:|---:|"]  # fmt: skip
    for name, seconds in document["step_seconds"].items():
        cells = []
        for what in ("over_by_hand", "processor_over_by_hand"):
            ratio = document[what].get(name)
            cells.append("" if ratio is None else (
                f"{ratio['median']:.2f} ({ratio['lower_quartile']:.2f} to "
                f"{ratio['upper_quartile']:.2f})"))  # fmt: skip
        lines.append(
            f"| {name} | {1e3 * statistics.median(seconds):.1f} ms | {' | '.join(cells)} |"
        )
    text = (
        f"Steps of {document['batch_size']} images, in turn: medians of {document['turns']} turns "
        f"of {document['steps']} steps, with quartiles of the ratio within a turn. By default the "
        f"package spreads a batch over {document['devices']} devices here. "
        f"{where_from(document, ('flax', 'optax'))}"
    )
    return "\n".join([*lines, "", text])


def exports(document: dict[str, Any]) -> str:
    """How far each file is from its run."""
    rows = document["rows"]
    formats = list(dict.fromkeys(row["format"] for row in rows))
    lines = [f"| network | parameters | {' | '.join(formats)} |",
             "|---|---:|" + "---:|" * len(formats)]  # fmt: skip
    for name in dict.fromkeys(row["network"] for row in rows):
        own = {row["format"]: row for row in rows if row["network"] == name}
        cells = (f"{own[each]['absolute']:.1e} ({own[each]['relative']:.1e})" for each in formats)
        lines.append(f"| {name} | {own[formats[0]]['params']:,} | {' | '.join(cells)} |")
    text = (
        f"Largest difference of a logit over {rows[0]['rows']} test rows, and as a share of the "
        f"largest logit; more than {rows[0]['tolerance']:g} of it is an error, and nothing is "
        f"written. {where_from(document, ('onnxruntime', 'safetensors'))}"
    )
    return "\n".join([*lines, "", text])


def fine_tuning(document: dict[str, Any]) -> str:
    """Accuracy of each way over its seeds, and what the seeds show."""
    lines = ["| | test accuracy (mean ± sd) | against from scratch [95 %] | p | verdict |",
             "|---|---:|---:|---:|---|"]  # fmt: skip
    against = {one["label"]: one for one in document["compared"]}
    for name, values in document["arms"].items():
        figure = f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"
        one = against.get(name)
        cells = ["", "", ""]
        if one is not None:
            test = one["comparison"]
            low, high = test["interval"]
            cells = [f"{test['difference']:+.4f} [{low:+.4f}, {high:+.4f}]",
                     f"{one['p_corrected']:.1g}", one["verdict"]]  # fmt: skip
        lines.append(f"| {name} | {figure} | {' | '.join(cells)} |")
    few, parent = document["few"], document["parent"]
    text = (
        f"{', '.join(document['new'])}: {document['images']} images of each, "
        f"{document['choosing']} of which choose the epoch; {document['test_rows']:,} test images, "
        f"{document['seeds']} seeds, {few['epochs']} epochs of batches of {few['batch_size']}. The "
        f"weights are those of {parent['epochs_run']} epochs on {parent['train_rows']:,} images of "
        f"the other seven classes, where their test accuracy is {parent['test_accuracy']:.3f}. "
        f"{where_from(document, ('flax',))}"
    )
    return "\n".join([*lines, "", text])
