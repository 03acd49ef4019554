"""The model card of a run: README.md with Hugging Face's front matter, and curve.svg beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from flaxcnn.records.format import count_text
from flaxcnn.records.intervals import wilson
from flaxcnn.records.views import TRAINING_NOTE, epochs_table, protocol_note, splits_table

CURVE = "curve.svg"
# Names of the built-in data sets on the Hub; digits is part of scikit-learn alone
ON_THE_HUB = {
    "mnist": "ylecun/mnist", "fashion_mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
}  # fmt: skip
FEW = 20  # classes that are listed
WIDE, HIGH, LEFT, BOTTOM, TOP, RIGHT = 560, 260, 52, 36, 16, 96  # pixels of the picture
STEPS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # of the labels of its axis
LABELS = 5  # at most, besides that of 100 %
LINES = (("train", "training", "#0072b2", ""), ("val", "validation", "#c85800", "6 4"))


def run_readme(
    config: Mapping[str, Any], summary: Mapping[str, Any], history: Sequence[Mapping[str, Any]],
    dead: Mapping[str, tuple[int, int]], data: Mapping[str, Any],
) -> str:  # fmt: skip
    """README.md of a run: a model card that can go to the Hub with its folder.

    Args:
        config: config.json.
        summary: summary.json.
        history: the epochs.
        dead: layer -> (dead relu units, relu units).
        data: data.json.
    """
    name = summary["experiment"] or "a run"
    text, doubtful = protocol_note({summary["protocol"]}, config["validation"])
    optimistic = " These figures are optimistic." if config["validation"] == "test" else ""
    counts = ", ".join(f"{layer} {n} of {total}" for layer, (n, total) in dead.items() if n)
    return _document(
        front_matter(name, config, summary),
        f"# {name}, seed {summary['seed']}",
        _what(config, summary, data),
        f"**{text.capitalize()}.**{optimistic}" if doubtful else "",
        f"![Accuracy of training and validation over {count_text(len(history), 'epoch')}]({CURVE})"
        if history
        else "",
        "## Results",
        splits_table(summary).markdown(),
        f"Weights of epoch {summary['kept_epoch']} of {summary['epochs_run']}, "
        f"{summary['params']:,} parameters.",
        f"It diverged in epoch {summary['diverged_epoch']}; these are the last good weights."
        if "diverged_epoch" in summary
        else "",
        "## Use",
        _use(data),
        "## Limits",
        _limits(summary, data),
        "## Training",
        f"Dead relu units: {counts or 'none'}. Training took {summary['seconds']:.1f} s after "
        f"{summary['compile_seconds']:.1f} s of compilation on {summary['device']}.",
        f"Probabilities are those of logits divided by {summary['temperature']:.3f}, fitted to the "
        "validation rows."
        if "temperature" in summary
        else "",
        "### Epochs",
        f"{TRAINING_NOTE} * marks a new best.",
        epochs_table(history).markdown(),
        "### Recipe",
        f"`config.json` holds it in full (fingerprint `{summary['fingerprint']}`); `split.json` "
        "the rows, `env.json` the software. Digest of the parameters: "
        f"`{summary['params_digest']}`. `flaxcnn reproduce .` trains it again and compares every "
        "bit.",
    )


def _document(*parts: str) -> str:
    return "\n\n".join(filter(None, parts)) + "\n"


def front_matter(name: str, config: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """Metadata of the Hub, as YAML; every value is quoted as JSON, which YAML contains."""
    dataset = str(config["dataset"])
    known = ON_THE_HUB.get(dataset) or (dataset[3:] if dataset.startswith("hf:") else None)
    value = summary["test_accuracy"]
    lines = ["---", "library_name: flaxcnn", "pipeline_tag: image-classification",
             "tags: [jax, flax, cnn, image-classification]", "metrics: [accuracy]"]  # fmt: skip
    if known:
        lines.append(f"datasets: [{json.dumps(known)}]")
    if value is not None:
        lines += [
            "model-index:",
            f"- name: {json.dumps(name)}",
            "  results:",
            "  - task: {type: image-classification}",
            f"    dataset: {{name: {json.dumps(dataset)}, type: {json.dumps(known or dataset)}, "
            "split: test}",
            f"    metrics: [{{type: accuracy, name: Test accuracy, value: {value:.6g}}}]",
        ]
    return "\n".join([*lines, "---"])


def _what(config: Mapping[str, Any], summary: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    height, width, channels = data["shape"]
    colour = {1: "grey", 3: "RGB"}.get(channels, f"{channels}-channel")
    names = [str(each) for each in data["classes"]]
    listed = f": {', '.join(names)}" if len(names) <= FEW else f", from {names[0]} to {names[-1]}"
    first = (
        f"A convolutional network of {summary['params']:,} parameters that tells "
        f"{count_text(len(names), 'class').replace('classs', 'classes')} of {colour} images of "
        f"{width} x {height} pixels apart{listed}. Trained by flaxcnn on {config['dataset']}"
    )
    rows, accuracy = summary.get("test_rows"), summary["test_accuracy"]
    if not rows or accuracy is None:
        return f"{first}."
    low, high = wilson(accuracy, rows)
    return (
        f"{first}: **{100 * accuracy:.2f} %** of {rows:,} test images right (95 % interval "
        f"{100 * low:.2f} to {100 * high:.2f} %)."
    )


def _use(data: Mapping[str, Any]) -> str:
    height, width, channels = data["shape"]
    return f"""```python
import flaxcnn

model = flaxcnn.load(".")  # this folder
model.predict(images)  # uint8 pixels [N, {height}, {width}, {channels}] -> names of classes
model(images)  # logits [N, {len(data["classes"])}]; pixels are scaled as in training
```

```sh
flaxcnn predict . image.png photos/          # image files, or folders of them
flaxcnn export . --format onnx               # for other programs
```"""


def _limits(summary: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    height, width, _ = data["shape"]
    lines = [
        f"It knows {len(data['classes'])} classes. An image of anything else is called one of "
        "them all the same, and its probability is no warning.",
        f"It has seen images of {width} x {height} pixels from {data['name']}. Photos taken, cut "
        "or scaled in another way may be called worse than the test images; measure it on yours.",
        "One seed was trained, so how much results vary between seeds is unknown; `flaxcnn study` "
        "measures it.",
        "Classes may differ: see the page that `flaxcnn report .` writes before decisions rest on "
        "it. It has not been examined for fairness.",
        "The licence is for whoever publishes it to choose; the data's own terms apply.",
    ]
    if summary["protocol"] == "document":
        lines.insert(0, "The epoch was chosen as a document chose it: expect less on new images.")
    return "\n".join(f"- {line}" for line in lines)


# -- the picture ---------------------------------------------------------------------------------


def curve_svg(history: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy of training and validation by epoch, on white: a picture for a card.

    Drawn without a library: a run that trains does not import one for it.
    """
    series = [(name, _points(history, f"{key}_accuracy"), colour, dash)
              for key, name, colour, dash in LINES]  # fmt: skip
    values = [value for _, places, _, _ in series for _, value in places]
    step, low = _axis(min(values, default=0.0))
    epochs = max((epoch for _, places, _, _ in series for epoch, _ in places), default=1)
    x = lambda epoch: LEFT + (epoch - 1) * (WIDE - LEFT - RIGHT) / max(epochs - 1, 1)  # noqa: E731
    y = lambda value: TOP + (1 - value) * (HIGH - TOP - BOTTOM) / (1 - low)  # noqa: E731
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {HIGH}" width="{WIDE}" '
        f'height="{HIGH}" font-family="sans-serif" font-size="12" fill="#333">',
        f'<rect width="{WIDE}" height="{HIGH}" fill="#fff"/>',
    ]
    for number in range(round((1 - low) / step) + 1):
        at = low + number * step
        parts.append(
            f'<path d="M{LEFT} {y(at):.1f}H{WIDE - RIGHT}" stroke="#ddd"/>'
            f'<text x="{LEFT - 6}" y="{y(at) + 4:.1f}" text-anchor="end">{100 * at:.4g} %</text>'
        )
    for epoch in sorted({1, (1 + epochs) // 2, epochs}):
        parts.append(
            f'<text x="{x(epoch):.1f}" y="{HIGH - 18}" text-anchor="middle">{epoch}</text>'
        )
    parts.append(f'<text x="{(LEFT + WIDE - RIGHT) / 2}" y="{HIGH - 3}" '
                 'text-anchor="middle">epoch</text>')  # fmt: skip
    taken: list[float] = []
    series = [line for line in series if line[1]]
    series.sort(key=lambda line: -line[1][-1][1])  # names from the top, moved down where too near
    for name, places, colour, dash in series:
        line = " ".join(f"{x(epoch):.1f},{y(value):.1f}" for epoch, value in places)
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2" '
            f'stroke-dasharray="{dash}"/><circle cx="{x(places[-1][0]):.1f}" '
            f'cy="{y(places[-1][1]):.1f}" r="3" fill="{colour}"/>'
        )
        height = y(places[-1][1]) + 4
        while any(abs(height - other) < 14 for other in taken):
            height += 1
        taken.append(height)
        parts.append(f'<text x="{WIDE - RIGHT + 8}" y="{height:.1f}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _points(history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    return [(row["epoch"], row[key]) for row in history
            if row.get(key) is not None and math.isfinite(row[key])]  # fmt: skip


def _axis(low: float) -> tuple[float, float]:
    """(step of the labels, the lowest of them), up to 100 %."""
    span = max(1 - low, 0.01)
    step = next(step for step in STEPS if span / step <= LABELS or step == STEPS[-1])
    return step, max(0.0, 1 - step * math.ceil(span / step - 1e-9))
