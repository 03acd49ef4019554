"""How far the files of `flaxcnn export` are from the runs that they come from.

    FLAXCNN_DATA_DIR=... python -m benchmarks.exports [--output FILE]

Three networks are trained for an epoch on a few thousand rows, and written as ONNX, StableHLO and
safetensors. The export itself compares each file, read back, with the logits of 500 test rows that
the run recorded; here are the largest differences.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when jaxlib is imported

import numpy as np

import flaxcnn
from benchmarks.peers.models import BATCHNORM_CNN, basic_block, conv_norm
from flaxcnn.backend import prepare
from flaxcnn.data.datasets import load
from flaxcnn.export.export import FORMATS, export
from flaxcnn.hardware import installed
from flaxcnn.recipe.layers import Activation, Dense, GlobalAvgPool
from flaxcnn.records.environment import environment
from flaxcnn.records.files import plain, write_atomic

OUTPUT = Path(__file__).parent / "results" / "exports.json"
TRAIN, TEST = 4000, 1000  # rows
RESIDUAL = (
    *conv_norm(16), Activation("relu"), basic_block(16, 1, False), basic_block(32, 2, True),
    GlobalAvgPool(), Dense(10),
)  # fmt: skip
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "mnist-ladder/model10": ("mnist", {}),
    "batch normalisation": ("mnist", {"layers": BATCHNORM_CNN}),
    "residual": ("cifar10", {"layers": RESIDUAL}),
}


def measure(folder: Path) -> list[dict[str, Any]]:
    """A row for each network and format."""
    rows = []
    for name, (dataset, settings) in NETWORKS.items():
        found = load(dataset)
        data = [np.asarray(part[:number]) for split, number in
                ((found.train, TRAIN), (found.test, TEST))
                for part in (split.image, split.label)]  # fmt: skip
        run = flaxcnn.train(
            "mnist-ladder/model10", data=data, epochs=1, name=name,
            run_dir=folder / name.replace("/", "-"), **settings,
        )  # fmt: skip
        largest = float(np.abs(run.predictions().logits[:500]).max())
        for format in FORMATS:
            done = export(run.path, format, folder / "file")
            rows.append({
                "network": name, "dataset": dataset, "params": run.summary["params"],
                "format": format, "rows": done.rows, "relative": done.difference,
                "absolute": done.difference * largest, "tolerance": done.tolerance,
                "bytes": done.path.stat().st_size,
            })  # fmt: skip
            print(f"{name} {format}: {done.difference:.2g} of the largest logit", flush=True)
    return rows


def main() -> None:
    """Measure, and write the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exports")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    prepare()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder))
    document = {
        "train_rows": TRAIN, "rows": rows, "environment": environment(),
        "packages": installed(("onnx", "onnxruntime", "safetensors")),
    }  # fmt: skip
    write_atomic(options.output, (json.dumps(plain(document), indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
