"""`flaxcnn evaluate` and `flaxcnn predict`, on a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flaxcnn.cli import options
from flaxcnn.cli.output import command, emit_json, quiet, say
from flaxcnn.errors import check_choice
from flaxcnn.records.files import check_suffix, write_atomic

SPLITS = ("test", "validation", "train")
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")]
TOP = 3


@command
def evaluate(
    run: Run,
    split: Annotated[
        str, typer.Option("--split", help="Rows to evaluate: test, validation or train.")
    ] = "test",
    no_cache: options.NoCache = False,
    as_json: options.Json = False,
) -> None:
    """Evaluate the kept weights of a run, and compare with its summary.

    \b
    Examples:
      flaxcnn evaluate runs/digits/quickstart/20260101-120000-seed0
      flaxcnn evaluate RUN --split validation --json
    """
    check_choice("--split", split, SPLITS)
    from flaxcnn.backend import prepare
    from flaxcnn.engine.saved import evaluate_run, open_run

    quiet()
    prepare(cache=not no_cache)
    opened = open_run(run)
    metrics = evaluate_run(opened, split)
    key = {"validation": "val"}.get(split, split)
    recorded = {name: opened.summary[f"{key}_{name}"] for name in metrics}
    same = metrics == recorded
    if as_json:
        emit_json({
            "run": str(run), "split": split, **{f"{key}_{k}": v for k, v in metrics.items()},
            "recorded": recorded, "equal": same,
        })  # fmt: skip
        return
    say(f"{split} accuracy {metrics['accuracy']:.4f}, loss {metrics['loss']:.6f}")
    say("equal to the run's summary" if same else f"the run's summary has {recorded}")


@command
def predict(
    run: Run,
    images: Annotated[
        list[Path],
        typer.Argument(help="Image files (PNG, JPEG, WebP, BMP or GIF), or folders of them."),
    ],
    resize: Annotated[
        bool, typer.Option("--resize", help="Resize images to the size of the model's input.")
    ] = False,
    table: Annotated[
        Path | None,
        typer.Option("--csv", help="Write a row for each image, with all probabilities."),
    ] = None,
    no_cache: options.NoCache = False,
    as_json: options.Json = False,
) -> None:
    """Classify images: the class, its probability, and the three most likely classes.

    \b
    Examples:
      flaxcnn predict RUN digit.png
      flaxcnn predict RUN *.png --resize --json
      flaxcnn predict RUN photos/ --csv photos.csv
    """
    if table is not None:
        check_suffix("--csv", table, ".csv")
    from flaxcnn.backend import prepare
    from flaxcnn.data.decode import read_for
    from flaxcnn.data.folders import image_files
    from flaxcnn.engine.saved import classify, open_run

    quiet()
    prepare(cache=not no_cache)
    opened = open_run(run)
    shape = tuple(opened.data["shape"])
    images = [file for path in images for file in (image_files(path) if path.is_dir() else [path])]
    pixels = [read_for(path, shape, resize, opened.recipe.resize) for path in images]
    import numpy as np

    rows = []
    found = classify(opened, np.stack(pixels))
    for path, probability in zip(images, found, strict=True):
        best = np.argsort(-probability, kind="stable")[:TOP]
        top = [{"class": opened.data["classes"][i], "probability": float(probability[i])}
               for i in best]  # fmt: skip
        rows.append({"image": str(path), **top[0], "top": top})
    if table is not None:
        from flaxcnn.records.tables import csv_text

        columns = {key: [row[key] for row in rows] for key in ("image", "class", "probability")}
        each = {f"p_{name}": found[:, i].tolist() for i, name in enumerate(opened.data["classes"])}
        write_atomic(table, csv_text({**columns, **each}).encode())
    if as_json:
        emit_json(rows)
        return
    for row in rows:
        likely = ", ".join(f"{each['class']} {each['probability']:.4f}" for each in row["top"])
        say(f"{row['image']}: {row['class']} ({row['probability']:.4f})  top {TOP}: {likely}")


@command
def export(
    run: Run,
    format: Annotated[
        str, typer.Option("--format", help="safetensors, stablehlo or onnx.")
    ] = "safetensors",
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Default: in the run directory.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Take images that are scaled already, not uint8 pixels.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Write the trained network of a run to a file for other programs.

    The file is read back and compared with the run's own test logits before it is kept.

    \b
    Examples:
      flaxcnn export RUN --format onnx --output digits.onnx
      flaxcnn export RUN --format stablehlo
      flaxcnn export RUN --format safetensors --json
    """
    from flaxcnn.backend import prepare
    from flaxcnn.export.export import export as export_run

    quiet()
    prepare()
    done = export_run(run, format, output, raw=raw)
    if as_json:
        emit_json({**vars(done), "path": str(done.path)})
        return
    say(
        f"{done.path}: {done.rows} test rows give the run's logits within {done.difference:.1g} of "
        f"the largest (at most {done.tolerance:g})"
    )
