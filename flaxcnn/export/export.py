"""`flaxcnn export`: a trained network as a file, read back and compared before it counts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import flaxcnn
from flaxcnn.data.datasets import load_for
from flaxcnn.data.standardize import standardize
from flaxcnn.engine.initial import flat
from flaxcnn.engine.saved import check_data, open_run
from flaxcnn.errors import ConfigError, FlaxcnnError, WriteError, check_choice
from flaxcnn.export.onnx_graph import onnx_model
from flaxcnn.records.files import check_suffix, write_atomic
from flaxcnn.trained import TrainedModel, load

FORMATS = {"safetensors": "safetensors", "stablehlo": "", "onnx": "onnx"}  # and what they need
SUFFIXES = {"safetensors": ".safetensors", "stablehlo": ".stablehlo", "onnx": ".onnx"}
ROWS = 500  # test rows that are compared
# Largest difference of a logit, as a share of the largest logit: the same sums in another order,
# of numbers with 24 bits, and of numbers with 8 where the network computes in bfloat16.
TOLERANCES = {"float32": 1e-4, "tensorfloat32": 1e-4, "bfloat16": 3e-2}


@dataclass(frozen=True)
class Exported:
    """A file that gives the run's own logits."""

    path: Path
    format: str
    raw: bool
    rows: int  # test rows that were compared
    difference: float  # the largest of a logit, as a share of the largest logit
    tolerance: float


def export(
    run: Path | str, format: str, output: Path | str | None = None, *, raw: bool = False
) -> Exported:
    """Write the kept network of a run, and compare the file with the run's own test logits.

    Args:
        run: its directory.
        format: "safetensors" (weights, scaling and recipe), "stablehlo" (for `jax.export`) or
            "onnx". The number of images is free in the latter two.
        output: the file; by default `model` with the suffix of the format, in the run directory.
        raw: the program takes images that are scaled already, float32; otherwise uint8 pixels.

    Raises:
        CheckpointError: no finished run there.
        ConfigError: the format is unknown, needs a package, or cannot hold such a network.
        DataError: the data is not the data of the run.
        FlaxcnnError: what the file gives differs from the run; nothing is written.
        WriteError: the file cannot be written.
    """
    check_choice("--format", format, FORMATS)
    _require(format)
    if output:
        check_suffix("--output", Path(output), SUFFIXES[format])
    opened = open_run(Path(run))
    model = load(opened)
    path = Path(output) if output else opened.path / f"model{SUFFIXES[format]}"
    if raw and format == "safetensors":
        raise ConfigError("--raw has no effect on safetensors, which holds weights and no program")
    write, read = {
        "safetensors": (_write_safetensors, _read_safetensors),
        "stablehlo": (_write_stablehlo, _read_stablehlo),
        "onnx": (_write_onnx, _read_onnx),
    }[format]
    content = write(model, raw)
    images, expected = _test_rows(model, opened)
    inputs = images if not raw else np.asarray(standardize(images, model.mean, model.scale))  # type: ignore[arg-type]
    difference = _difference(read(content, model)(inputs), expected)
    tolerance = TOLERANCES[opened.recipe.precision]
    if not difference <= tolerance:
        raise FlaxcnnError(
            f"{format}: the file gives logits that differ from the run's by {difference:.2g} of "
            f"the largest (at most {tolerance:g} is rounding); nothing was written"
        )
    exported = Exported(path, format, raw, len(images), difference, tolerance)
    try:
        write_atomic(path, content)
        write_atomic(path.with_name(f"{path.name}.md"), card(model, exported).encode())
    except OSError as error:
        raise WriteError(f"cannot write {path} ({error.strerror})") from error
    return exported


def _require(format: str) -> None:
    needed = FORMATS[format]
    try:
        if needed:
            __import__(needed)
    except ImportError:
        raise ConfigError(
            f"--format {format} needs {needed}; install it with pip install 'flaxcnn[export]'"
        ) from None


def _test_rows(model: TrainedModel, run: Any) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, H, W, C] uint8 of the first test rows, and the run's own logits of them."""
    dataset = load_for(model.config)
    check_data(dataset, run.data["digest"])
    with np.load(run.path / "predictions.npz", allow_pickle=False) as file:
        rows, logits = file["row"][:ROWS], file["logits"][:ROWS]
    train = len(dataset.train)
    images = np.stack([
        np.asarray(dataset.train.image[row] if row < train else dataset.test.image[row - train])
        for row in rows
    ])  # fmt: skip
    return images, logits


def _difference(ours: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(ours - expected).max() / np.abs(expected).max())


# -- safetensors ---------------------------------------------------------------------------------


def _write_safetensors(model: TrainedModel, raw: bool) -> bytes:
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(array) for name, array in flat(model.variables).items()}
    arrays |= {"scaling/mean": model.mean, "scaling/scale": model.scale}
    about = {"flaxcnn": flaxcnn.__version__, "recipe": json.dumps(model.config.to_dict()),
             "classes": json.dumps(model.classes), "shape": json.dumps(model.shape)}  # fmt: skip
    content: bytes = save(arrays, about)
    return content


def _read_safetensors(content: bytes, model: TrainedModel) -> Callable[[np.ndarray], np.ndarray]:
    from safetensors.numpy import load

    arrays = load(content)
    variables: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for name, array in arrays.items():
        collection, *path = name.split("/")
        if collection != "scaling":
            node = variables[collection]
            for key in path[:-1]:
                node = node.setdefault(key, {})
            node[path[-1]] = array
    return dataclasses.replace(
        model, variables=variables, mean=arrays["scaling/mean"], scale=arrays["scaling/scale"]
    )


# -- programs ------------------------------------------------------------------------------------


def _write_stablehlo(model: TrainedModel, raw: bool) -> bytes:
    """A program for CPU, CUDA and TPU, in forms that each of them compiles."""
    portable = model.for_platform("gpu")
    if raw:
        none, one = np.zeros((1, 1, 1), np.float32), np.ones((1, 1, 1), np.float32)
        portable = dataclasses.replace(portable, mean=none, scale=one)
    forward = lambda images: portable.apply(portable.variables, images)  # noqa: E731
    (batch,) = jax.export.symbolic_shape("batch")
    like = jax.ShapeDtypeStruct((batch, *model.shape), jnp.float32 if raw else jnp.uint8)
    export = lambda function: jax.export.export(  # noqa: E731
        jax.jit(function), platforms=("cpu", "cuda", "tpu")
    )(like)
    try:
        return bytes(export(forward).serialize())
    except Exception:  # code that needs the number of images as a number, such as `len(x)`
        return bytes(export(jax.vmap(lambda image: forward(image[None])[0])).serialize())


def _read_stablehlo(content: bytes, model: TrainedModel) -> Callable[[np.ndarray], np.ndarray]:
    program = jax.jit(jax.export.deserialize(bytearray(content)).call)
    return lambda images: np.asarray(program(images))


def _write_onnx(model: TrainedModel, raw: bool) -> bytes:
    if model.config.model is not None:
        raise ConfigError(
            "--format onnx writes the layers of a recipe, and this network is one of your own; "
            "use --format stablehlo"
        )
    if model.config.tta is not None:
        raise ConfigError(
            "--format onnx writes the layers of a recipe without its tta, and would not give the "
            "run's logits; use --format stablehlo"
        )
    content: bytes = onnx_model(model, raw).SerializeToString()
    return content


def _read_onnx(content: bytes, model: TrainedModel) -> Callable[[np.ndarray], np.ndarray]:
    """By onnxruntime where it is installed, otherwise by onnx's own evaluator."""
    try:
        import onnxruntime
    except ImportError:
        import onnx
        from onnx.reference import ReferenceEvaluator

        evaluator: Any = ReferenceEvaluator(onnx.load_from_string(content))
        return lambda images: evaluator.run(None, {"images": images})[0]
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]


# -- card ----------------------------------------------------------------------------------------

USES = {
    "safetensors": """from safetensors.numpy import load_file

arrays = load_file("{file}")  # "params/LAYER/kernel", ..., and "scaling/mean", "scaling/scale"
""",
    "stablehlo": """import jax
import jax.export
import numpy as np

program = jax.export.deserialize(bytearray(open("{file}", "rb").read()))
images = np.zeros((2, {shape}), np.{dtype})
logits = jax.jit(program.call)(images)  # [2, {classes}]
""",
    "onnx": """import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{file}")
images = np.zeros((2, {shape}), np.{dtype})
(logits,) = session.run(None, {{"images": images}})  # [2, {classes}]
""",
}


def card(model: TrainedModel, exported: Exported) -> str:
    """What is in the file and how to use it, as Markdown."""
    use = USES[exported.format].format(
        file=exported.path.name, shape=", ".join(map(str, model.shape)),
        dtype="float32" if exported.raw else "uint8", classes=len(model.classes),
    )  # fmt: skip
    pixels = (
        "float32 images that are scaled already" if exported.raw else "uint8 pixels; scaling is in"
    )
    inputs = "" if exported.format == "safetensors" else f"\n- Input: {pixels}."
    return f"""# {exported.path.name}

A network trained by flaxcnn {flaxcnn.__version__} on {model.config.dataset}.

- Images: [N, {", ".join(map(str, model.shape))}].{inputs}
- Output: one logit per class: {", ".join(model.classes)}.
- Compared with the run on {exported.rows} test rows: the largest difference of a logit is
  {exported.difference:.2g} of the largest logit.

```python
{use}```
"""
