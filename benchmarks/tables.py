"""Write the tables of the pages on speed from benchmarks/results, and two of the charts.

python -m benchmarks.tables
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import cifar_speed, notebook_tables, own_tables
from benchmarks.peers.models import DEFAULT

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    ROOT / "README.md",
    *(ROOT / "docs" / page for page in (
        "benchmarks/index.md", "howto/trained-model.md", "tutorials/fine-tune.md",
        "tutorials/keras-augmentation.md")),
)  # fmt: skip
SHORT = (  # in the README
    "mnist-ladder/model1",
    "mnist-ladder/model10",
    "fashion-slim/final",
    "cifar-tuning/model3",
    "resnet18-cifar",
)
RESULTS = ROOT / "benchmarks" / "results" / "peers-cpu.json"
CHART = RESULTS.with_suffix(".svg")
ACCURACY = RESULTS.with_name("accuracy-model10.json")
PARALLEL = RESULTS.with_name("parallel-cpu.json")
REVISIONS = RESULTS.with_name("revisions-cpu.json")
STREAMING = RESULTS.with_name("streaming-cpu.json")
STUDIES = RESULTS.with_name("study-scaling-cpu.json")
SEARCH = RESULTS.with_name("search-cost-cpu.json")
NOTEBOOK = RESULTS.with_name("keras-notebook-cpu.json")
CURVES = NOTEBOOK.with_suffix(".svg")
LONGER = RESULTS.with_name("search-cost-longer-cpu.json")  # --shrink 5
# Okabe and Ito's colours, told apart by the colour-blind and visible on white and on black. The
# bars of a model stand in the order of the legend, which tells them apart where there is no colour.
COLOURS = {
    "keras-tensorflow": "#E69F00",
    "keras-jax": "#56B4E9",
    "torch": "#D55E00",
    "torch-compile": "#CC79A7",
    "flax": "#009E73",
}
INK = "#7a7a7a"  # text and lines: legible on white and on black


def in_order(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The compared models, those of the default list first and in its order."""
    place = {name: number for number, name in enumerate(DEFAULT)}
    compared = [one for one in document["comparison"]["models"] if one["train"]["best_peer"]]
    return sorted(compared, key=lambda one: place.get(one["model"], len(place)))


def peers(document: dict[str, Any]) -> str:
    """The comparison with others: a table, what it means, and the chart."""
    lines = [
        "| model | batch | flaxcnn images/s | fastest peer | its images/s "
        "| training | evaluation |",
        "|---|---:|---:|---|---:|---:|---:|",
    ]  # fmt: skip
    for one in in_order(document):
        train, evaluate = one["train"], one["eval"]
        lines.append(
            f"| `{one['model']}` | {one['batch_size']} | {train['images_per_second']:,.0f} "
            f"| {train['best_peer']} | {train['best_images_per_second']:,.0f} "
            f"| {train['ratio_to_best']:.2f} | {evaluate['ratio_to_best']:.2f} |"
        )
    means = document["comparison"]["geometric_mean"]
    lines.append(
        "| geometric mean | | | | "
        f"| {means['train']['best']:.2f} | {means['eval']['best']:.2f} |"
    )  # fmt: skip
    chart = f"![Training speed of flaxcnn over each peer's](../../benchmarks/results/{CHART.name})"
    return "\n".join([*lines, "", *sentences(document), "", chart])


def peers_in_short(document: dict[str, Any]) -> str:
    """The comparison for the README: a few models and the mean over all."""
    lines = ["| model | flaxcnn images/s | fastest peer | its images/s | ratio |",
             "|---|---:|---|---:|---:|"]  # fmt: skip
    compared = in_order(document)
    for one in compared:
        if one["model"] in SHORT:
            train = one["train"]
            lines.append(
                f"| `{one['model']}` | {train['images_per_second']:,.0f} | {train['best_peer']} "
                f"| {train['best_images_per_second']:,.0f} | {train['ratio_to_best']:.2f} |"
            )
    mean = document["comparison"]["geometric_mean"]["train"]["best"]
    lines.append(f"| geometric mean of {len(compared)} models | | | | {mean:.2f} |")
    return "\n".join(lines)


def studies(document: dict[str, Any]) -> str:
    """What a seed costs in a study: a table, what it means, and the chart."""
    points = [point for point in document["points"] if point["how"] == "auto"]
    counts = sorted({point["seeds"] for point in points})
    lines = [f"| model | one run | {' | '.join(f'N = {n}' for n in counts)} |",
             f"|---|---:|{'---:|' * len(counts)}"]  # fmt: skip
    for name in dict.fromkeys(point["model"] for point in points):
        own = {point["seeds"]: point for point in points if point["model"] == name}
        seconds = own[max(own)]["run_seconds"]
        ratios = (f"{own[n]['ratio']:.2f}" if n in own else "" for n in counts)
        lines.append(f"| `{name}` | {seconds:.2f} s | {' | '.join(ratios)} |")
    best, worst = (pick(points, key=lambda point: point["ratio"]) for pick in (min, max))
    where = points[0]["environment"]
    revisions = sorted({short(point["source_revision"]) for point in points})
    rows = {point["rows"] for point in points}
    text = (
        f"Time of a study of N seeds over N times that of one run, {points[0]['epochs']} epochs of "
        f"at most {max(rows):,} rows each; below 1 the study is cheaper. Best: "
        f"{best['ratio']:.2f}, {best['model']} with {best['seeds']} seeds; worst: "
        f"{worst['ratio']:.2f}, {worst['model']} with {worst['seeds']}. {where['processor']}, "
        f"{where['cores']} cores; source {', '.join(revisions)}."
    )
    chart = f"![What a seed costs](../../benchmarks/results/{STUDIES.with_suffix('.svg').name})"
    return "\n".join([*lines, "", text, "", chart])


def accuracy(document: dict[str, Any]) -> str:
    """What the speed costs in accuracy."""
    ours, plain, apart = (document["summary"][key] for key in ("flaxcnn", "flax", "difference"))
    return (
        f"{document['model']}, {document['epochs']} epochs, {ours['n']} seeds each: validation "
        f"accuracy {ours['mean']:.4f} (sd {ours['sd']:.4f}) with flaxcnn and {plain['mean']:.4f} "
        f"(sd {plain['sd']:.4f}) with the plain Flax loop, a difference of {apart['mean']:+.4f} "
        f"(95 % interval {apart['low']:+.4f} to {apart['high']:+.4f}, Welch p {apart['p']:.2f})."
    )


def streaming(document: dict[str, Any]) -> str:
    """Readers in turn, and what a training on ten times the allowed bytes takes."""
    lines = [
        "| images | flaxcnn images/s | torch DataLoader | tf.data | over torch | over tf.data |",
        "|---|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    names = {"folder": "folder of JPEG and PNG", "tfds": "the same, prepared by tfds"}
    for kind, name in names.items():
        own = {row["reader"]: row for row in document["throughput"] if row["set"] == kind}
        rates = (f"{one['images_per_second']:,.0f}" for one in own.values())
        ratios = (
            f"{one['ratio']:.2f} ({one['ratio_lowest']:.2f} to {one['ratio_highest']:.2f})"
            for peer, one in own.items()
            if peer != "flaxcnn"
        )
        lines.append(f"| {name} | {' | '.join(rates)} | {' | '.join(ratios)} |")
    small, large, held = document["training"]
    where = document["environment"]
    mib = [one["peak_bytes"]["process"] / 2**20 for one in (small, large, held)]
    versions = ", ".join(f"{name} {where['versions'][name]}" for name in (
        "jax", "torch", "tensorflow-cpu") if name in where["versions"])  # fmt: skip
    text = (
        f"{document['images']:,} images of 64 to 96 pixels a side, decoded, resized to "
        f"{document['side']}x{document['side']} and batched by {document['workers']} workers each, "
        f"in turn; medians of {document['repeats']} passes, ratios with their range. A small CNN "
        f"trained on them with a tenth of their {large['pixel_bytes'] / 2**20:.0f} MiB of pixels "
        f"allowed (`data_memory`) had a peak of {mib[1]:.0f} MiB in its process, on a tenth of the "
        f"images {mib[0]:.0f}, with all held {mib[2]:.0f}; it ended in "
        f"{'the same' if large['params_digest'] == held['params_digest'] else 'other'} parameters, "
        f"and the device waited for rows in {max(large['stall'][1:]):.1%} of an epoch after the "
        f"first, of {large['epoch_seconds'][-1]:.1f} s ({held['epoch_seconds'][-1]:.1f} s held). "
        f"{where['processor']}, {where['cores']} cores; {versions}; source "
        f"{short(document['source_revision'])}."
    )
    return "\n".join([*lines, "", text])


def search_cost(document: dict[str, Any]) -> str:
    """A whole search beside GridSearchCV over Keras: a table, and what it means."""
    lines = ["| | whole search | images/s of the grid | images trained | trained images/s |",
             "|---|---:|---:|---:|---:|"]  # fmt: skip
    for side, one in document["sides"].items():
        name = "GridSearchCV over Keras" if side == "keras-tensorflow" else side
        lines.append(
            f"| {name} | {one['seconds']['median']:.0f} s "
            f"| {one['images_per_second']['median']:,.0f} | {one['images_trained']:,} "
            f"| {one['trained_per_second']['median']:,.0f} |"
        )
    ratios = {
        key: f"{one['median']:.2f} ({one['lowest']:.2f} to {one['highest']:.2f})"
        for key, one in document["ratios"]["flaxcnn"].items()
    }
    where, used = document["environment"], document["peer"]["settings"]
    versions = ", ".join(f"{name} {where['versions'][name]}" for name in (
        "jax", "keras", "tensorflow", "tensorflow-cpu", "scikit-learn")
        if name in where["versions"])  # fmt: skip
    pairs = zip(document["epochs"], document["epochs_of_the_document"], strict=True)
    text = (
        f"{document['experiment']}: {document['candidates']} candidates on {document['folds']} "
        f"folds of {document['rows']:,} images, "
        f"{' and '.join(f'{own} epochs for {theirs}' for own, theirs in pairs)}, no early stopping "
        f"and no refit; processes from start to end, in turn, {document['turns']} times, flaxcnn "
        f"with no programs kept from before. flaxcnn's images/s over the other's, median and "
        f"range: {ratios['search']} of what the grid asks for, and {ratios['images_trained']} of "
        f"what was trained, since runs with fewer epochs are read off longer ones; "
        f"{ratios['without_start']} of what the grid asks for without the start of the processes. "
        f"Keras's fastest settings: {used['data']}, {used['steps_per_execution']} steps per "
        f"execution, jit_compile {'on' if used['jit_compile'] else 'off'}, n_jobs={used['jobs']}. "
        f"{where['processor']}, {where['threads']} of {where['cores']} cores; {versions}; source "
        f"{short(document['source_revision'])}."
    )
    return "\n".join([*lines, "", text])


def parallel(document: dict[str, Any]) -> str:
    """Images per second of each way of sharing a batch, over those of one device."""
    names = list(document["models"])
    head = " | ".join(f"`{name}`" for name in names)
    lines = [f"| over one device | {head} |", "|---|" + "---:|" * len(names)]
    found = {name: {row["case"]: row for row in document["models"][name]["rows"]} for name in names}
    for case in dict.fromkeys(case for rows in found.values() for case in rows):
        cells = []
        for name in names:
            row = found[name].get(case)
            if row is None:
                cells.append("")
                continue
            low, high = row["speedup_lowest"], row["speedup_highest"]
            cells.append(f"{row['speedup']:.2f} ({low:.2f} to {high:.2f})")
        lines.append(f"| {case} | {' | '.join(cells)} |")
    first = next(iter(document["models"].values()))
    where = first["environment"]
    text = (
        "Images per second in training over those of one device at the recipe's batch size; "
        f"medians of {first['repeats']} turns of {first['steps']} steps with their range. Exact: 8 "
        "virtual shards; weak: a batch of the recipe's size on each device. "
        f"{where['processor']}, {where['cores']} cores, 2 virtual devices; source "
        f"{short(first['source_revision'])}."
    )
    return "\n".join([*lines, "", text])


def augmentation(document: dict[str, Any]) -> str:
    """The share of a step that each kind takes, and images per second beside others."""
    lines = [
        "| kind | share of a step | images/s alone | torchvision v2 | Keras on TensorFlow |",
        "|---|---:|---:|---:|---:|",
    ]
    for kind, one in document["kinds"].items():
        rates = one["images_per_second"]
        cells = [f"{rates[who]:,.0f}" if who in rates else "" for who in
                 ("flaxcnn", "torchvision", "keras")]  # fmt: skip
        lines.append(f"| `{kind}` | {max(one['share'], 0):.1%} | {' | '.join(cells)} |")
    where = document["environment"]
    text = (
        f"Share: of a training step of `{document['model']}`, by the quickest of "
        f"{document['repeats']} turns of {document['steps']} steps with and without; below "
        "about 4% it is noise here, and what came out negative is shown as 0. Alone: "
        f"batches of {document['batch']} images of 32x32x3, the best of a second of calls; "
        "torchvision image by image on one core. Strengths are alike where they can be set. "
        f"{where['processor']}, {where['cores']} cores, load {document['load']:.0f}; source "
        f"{short(document['source_revision'])}."
    )
    return "\n".join([*lines, "", text])


def revisions(document: dict[str, Any]) -> str:
    """Images per second of one revision over those of another, network by network."""
    lines = ["| model | before | after | training | evaluation |", "|---|---|---|---:|---:|"]
    for row in document["rows"]:
        cells = [
            f"{row[phase]['median']:.2f} ({row[phase]['lower_quartile']:.2f} to "
            f"{row[phase]['upper_quartile']:.2f})"
            for phase in ("train", "evaluate")
        ]
        named = (f"`{row['model']}`", row["before"], row["after"])
        lines.append(f"| {' | '.join([*named, *cells])} |")
    means = document["geometric_mean"]
    lines.append(f"| geometric mean | | | {means['train']:.2f} | {means['evaluate']:.2f} |")
    where = document["rows"][0]["environment"]
    text = (
        "Images per second of the later revision over those of the earlier one, in turn on one "
        f"machine: medians with quartiles. {where['processor']}, {where['threads']} of "
        f"{where['cores']} cores; jax {where['versions']['jax']}."
    )
    return "\n".join([*lines, "", text])


def notebook(document: dict[str, Any]) -> str:
    """A moved Keras notebook: a table, what it means, and the chart."""
    return notebook_tables.table(document, f"../../benchmarks/results/{CURVES.name}")


BLOCKS = {
    "revisions": (REVISIONS, revisions),
    "revisions-redesign": (REVISIONS.with_name("revisions-redesign-cpu.json"), revisions),
    "revisions-doors": (REVISIONS.with_name("revisions-doors-cpu.json"), revisions),
    "peers": (RESULTS, peers),
    "peers in short": (RESULTS, peers_in_short),
    "parallel": (PARALLEL, parallel),
    "augmentation": (PARALLEL.with_name("augment-cpu.json"), augmentation),
    "cifar-speed": (cifar_speed.RESULTS, cifar_speed.table),
    "accuracy": (ACCURACY, accuracy),
    "studies": (STUDIES, studies),
    "streaming": (STREAMING, streaming),
    "search-cost": (SEARCH, search_cost),
    "search-cost-longer": (LONGER, search_cost),
    "own-models": (RESULTS.with_name("own-models-cpu.json"), own_tables.own_models),
    "exports": (RESULTS.with_name("exports.json"), own_tables.exports),
    "keras-notebook": (NOTEBOOK, notebook),
    "fine-tuning": (RESULTS.with_name("fine-tuning.json"), own_tables.fine_tuning),
}


def sentences(document: dict[str, Any]) -> list[str]:
    """What the columns mean, and where the figures come from."""
    rows = [row for row in document["rows"] if row["group"] == "throughput"]
    failed = sorted({f"{row['peer']} on {row['model']}" for row in rows if "failed" in row})
    found = {
        "columns": "Training and evaluation: flaxcnn's images/s over those of the "
        "peer that is fastest at it, for each model; above 1 flaxcnn is faster."
    }
    for key in dict.fromkeys(row["environment"] for row in rows):
        where = document["environments"][key]
        revisions = sorted(
            {short(row["source_revision"]) for row in rows if row["environment"] == key}
        )
        packages = ", ".join(
            f"{name} {where['versions'][name]}"
            for name in ("jax", "flax", "keras", "tensorflow", "tensorflow-cpu", "torch")
            if name in where["versions"]
        )
        found[key] = (
            f"{where['processor']}, {where['threads']} of {where['cores']} cores, float32; "
            f"{packages}; source {', '.join(revisions)}."
        )
    if synthetic := sorted({row["model"] for row in rows if row.get("pixels") == "synthetic"}):
        found["synthetic"] = f"On random images: {', '.join(synthetic)}."
    if failed:
        found["failed"] = f"Failed, with the reason in the results: {', '.join(failed)}."
    return list(found.values())


def short(revision: str | None) -> str:
    """Nine digits of a commit, and the + of a checkout that was changed since."""
    if revision is None:
        return "unknown"
    return revision[:9] + ("+" if revision.endswith("+") else "")


def styled() -> Any:
    """matplotlib.pyplot in the style of all charts."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({
        "svg.hashsalt": "flaxcnn", "svg.fonttype": "none", "font.size": 10, "text.color": INK,
        "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
        "axes.spines.top": False, "axes.spines.right": False,
    })  # fmt: skip
    from matplotlib import pyplot

    return pyplot


def draw(document: dict[str, Any], path: Path) -> None:
    """Training speed of flaxcnn over that of each peer, a group of bars per model."""
    pyplot = styled()
    models = in_order(document)
    others = list(document["comparison"]["geometric_mean"]["train"]["peers"])
    figure, axes = pyplot.subplots(figsize=(8, 1.6 + 0.52 * len(models)), layout="constrained")
    height = 0.8 / len(others)
    for number, peer in enumerate(others):
        colour = COLOURS.get(peer, INK)
        places, widths = [], []
        for row, model in enumerate(models):
            if peer in model["train"]["ratios"]:
                places.append(row + (number - (len(others) - 1) / 2) * height)
                widths.append(model["train"]["ratios"][peer])
        # A logarithmic axis has no 0: bars begin where both are equally fast.
        axes.barh(places, [width - 1 for width in widths], height * 0.9, left=1, color=colour,
                  edgecolor=INK, linewidth=0.4, label=f"over {peer}")  # fmt: skip
    axes.axvline(1, color=INK, linewidth=1.2)
    axes.set_yticks(range(len(models)), [model["model"] for model in models])
    axes.set_ylim(len(models) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="x", which="minor", labelsize=7)
    axes.set_xlabel(
        "training speed of flaxcnn / training speed of the peer (log scale; line: equal)"
    )
    axes.set_ylabel("model")
    axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    figure.savefig(path, transparent=True, metadata={"Date": None})
    pyplot.close(figure)


def with_blocks(text: str) -> str:
    """A page with every table between its markers made again."""
    for name, (results, block) in BLOCKS.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if begin in text:
            before, rest = text.split(begin)
            made = block(json.loads(results.read_text())) if results.is_file() else ""
            text = f"{before}{begin}\n\n{made}\n\n{end}{rest.split(end)[1]}"
    return text


def main() -> None:
    """Write the pages and the chart from the results."""
    for page in PAGES:
        page.write_text(with_blocks(page.read_text()))
    draw(json.loads(RESULTS.read_text()), CHART)
    notebook_tables.draw(json.loads(NOTEBOOK.read_text()), styled(), CURVES, INK)
    print(", ".join(str(path.relative_to(ROOT)) for path in (*PAGES, CHART, CURVES)))


if __name__ == "__main__":
    main()
