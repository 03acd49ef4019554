"""A run in words: a line an epoch, and its README.md, which says how to get the same bits again."""

from __future__ import annotations

from typing import Any

from flaxcnn.recipe.config import Config


def page(
    config: Config,
    summary: dict[str, Any],
    history: list[dict[str, Any]],
    dead: dict[str, tuple[int, int]],
) -> str:
    """Markdown. Training figures are labelled so; the headline is the test split's."""
    flag = (
        "**Document protocol:** epochs were chosen as the document did"
        + (", on the test split itself; these figures are optimistic.\n\n"
           if config.validation == "test" else ".\n\n")
        if config.protocol == "document"
        else ""
    )  # fmt: skip
    rows = "".join(
        f"| {label} | {summary[f'{split}_accuracy']:.4f} | {summary[f'{split}_loss']:.4f} |\n"
        for label, split in (("test", "test"), ("validation", "val"), ("training", "train"))
    )
    epochs = "".join(
        f"| {row['epoch']}{' *' if row['best'] else ''} | {row['train_loss']:.4f} "
        f"| {row['train_accuracy']:.4f} | {row['val_loss']:.4f} "
        f"| {row['val_accuracy']:.4f} | {row['seconds']:.2f} |\n"
        for row in history
    )
    silent = ", ".join(f"{layer} {n} of {of}" for layer, (n, of) in dead.items() if n) or "none"
    return f"""# {summary["experiment"] or "a run"}, seed {summary["seed"]}

{flag}Weights of epoch {summary["kept_epoch"]} of {summary["epochs_run"]}, \
{summary["params"]:,} parameters.

| split | accuracy | loss |
|---|---|---|
{rows}
Dead relu units: {silent}. Training took {summary["seconds"]:.1f} s after \
{summary["compile_seconds"]:.1f} s of compilation on {summary["device"]}.

## Epochs

Training figures are running means over the epoch, dropout active; * marks a new best.

| epoch | training loss | training accuracy | validation loss | validation accuracy | seconds |
|---|---|---|---|---|---|
{epochs}
## Recipe

`config.json` holds it in full (fingerprint `{summary["fingerprint"]}`); `split.json` the rows, \
`env.json` the software. Digest of the parameters: `{summary["params_digest"]}`.
"""


def epoch_line(metrics: dict[str, Any], epochs: int) -> str:
    """What is told of an epoch, of so many, when it has ended."""
    value = {key: float("nan") if item is None else item for key, item in metrics.items()}
    text = (
        f"epoch {value['epoch']:>3}/{epochs}  loss {value['train_loss']:.4f}  "
        f"accuracy {value['train_accuracy']:.4f}  val_loss {value['val_loss']:.4f}  "
        f"val_accuracy {value['val_accuracy']:.4f}  {value['seconds']:.2f} s"
    )
    if "clean_train_accuracy" in value:
        text += f"  clean {value['clean_train_accuracy']:.4f}"
    if "stall" in value:
        text += f"  stall {value['stall']:.1%}"
    return text + ("  best" if value["best"] else "")
