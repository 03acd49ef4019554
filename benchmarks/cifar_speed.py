"""cifar-speed/94: runs on this machine, and its step as the compilers of H200 and TPU v5e make it.

python -m benchmarks.cifar_speed --run [--widths 16,64,64] [--epochs 8] [--seed 0]
python -m benchmarks.cifar_speed --compile    needs the compilers of `make accelerators`

Both add to benchmarks/results/cifar-speed.json. A whole run of the recipe is 0.28 Pflop. A network
of fewer channels has the same recipe, but for its head: logits are divided by 256 whatever the
width, and the head's rate grows with what its steps would lose by it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.compiled import commit
from flaxcnn.accelerators.cases import Case, compile_case
from flaxcnn.bench import flops_per_image
from flaxcnn.recipe import catalog, zoo
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Dense, Scale
from flaxcnn.recipe.rules import Decays, Rates
from flaxcnn.speedrun import whole_recipe

NAME = "cifar-speed/94"
RESULTS = Path(__file__).parent / "results" / "cifar-speed.json"
FULL = 256  # channels before the head
# Of airbench, by its own arithmetic: 3 * 2 multiply-adds of a forward pass of 400,000 images
AIRBENCH_FLOPS = 0.29e15
STEPS = 200


def narrow(config: Config, widths: Sequence[int]) -> Config:
    """The recipe for a network of other widths.

    Features of fewer channels move logits of one scale less, so the rate of the head is larger.
    """
    last = widths[-1]
    head = config.rates.named["dense/kernel"] * (FULL / last) ** 2 if config.rates else 1.0
    layers = zoo.airbench(
        widths, head=(Dense(10, init="lecun_uniform", bias=False), Scale(last**0.5 / FULL))
    )
    return dataclasses.replace(
        config, layers=layers, rates=Rates(**{"dense/kernel": head}),
        decays=Decays(**{"dense/kernel": 1 / head}),
    )  # fmt: skip


def run(widths: Sequence[int], epochs: int, seed: int) -> dict[str, Any]:
    """One run, with the test rows evaluated by one view after each epoch; nothing is chosen."""
    from flaxcnn.backend import prepare
    from flaxcnn.data.datasets import load_for
    from flaxcnn.engine.make_job import make_job
    from flaxcnn.engine.metrics import finalize
    from flaxcnn.records.environment import environment

    prepare()
    import jax

    config = narrow(catalog.find(NAME).config, widths)  # type: ignore[arg-type]
    config = whole_recipe(dataclasses.replace(config, epochs=epochs, seed=seed))
    data = load_for(config)
    job, once = make_job(config, data), make_job(dataclasses.replace(config, tta=None), data)
    state, rows = job.init(), []
    for epoch in range(epochs):
        began = time.perf_counter()
        state, sums = job.train_epoch(state)
        train = finalize(jax.device_get(sums))
        seconds = time.perf_counter() - began
        test = finalize(jax.device_get(once.evaluate(state, "test")))
        rows.append({"epoch": epoch + 1, "train": train, "test": test, "seconds": seconds})
        print(rows[-1], flush=True)
    images = job.plan.steps_per_epoch * config.batch_size * epochs
    return {
        "widths": list(widths), "epochs": epochs, "seed": seed, "precision": config.precision,
        "train_rows": len(job.rows.train), "history": rows,
        "test": finalize(jax.device_get(job.evaluate(state, "test"))),
        "training_flops": flops_per_image(config, data.shape, "train", 10) * images,
        "environment": environment(),
    }  # fmt: skip


def compiled() -> list[dict[str, Any]]:
    """The program of an epoch on both chips in both precisions, the quick ones first."""
    config = catalog.find(NAME).config
    assert config is not None
    cases = [
        Case(NAME, dataclasses.replace(config, precision=precision), target)
        for target, precision in (("h200", "float32"), ("h200", "bfloat16"), ("v5e", "bfloat16"),
                                  ("v5e", "float32"))
    ]  # fmt: skip
    return [{"commit": commit(), **compile_case(case)} for case in cases]


# -- the page ------------------------------------------------------------------------------------


def compiled_table(document: dict[str, Any]) -> str:
    """One step of 2,000 images on each chip, and what 200 of them take at the least."""
    lines = ["| chip | precision | kernels | GB | at least, by bytes | by flops | 200 steps |",
             "|---|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    for row in document["compiled"]:
        if "error" in row:
            continue
        bounds = row["bounds"]
        lines.append(
            f"| {row['target']} | {row['precision']} | {row['kernels']} | "
            f"{row['bytes_accessed'] / 1e9:.1f} | {1e3 * bounds['bandwidth']:.2f} ms | "
            f"{1e3 * bounds['flops']:.2f} ms | {STEPS * max(bounds.values()):.2f} s |"
        )
    flops = document["training_flops"]
    text = (
        f"A step is {flops / STEPS / 1e12:.2f} Tflop and a run {flops / 1e15:.3f} Pflop of "
        f"training; airbench counts {AIRBENCH_FLOPS / 1e15:g} Pflop, with the gradient of the "
        "images, which nobody needs. An epoch is one launch. Bounds are bytes over the bandwidth "
        "of memory and operations over the peak rate of the chip: no measurement, and no run is "
        f"as fast. Source {document['compiled'][0]['commit']}."
    )
    return "\n".join([*lines, "", text])


def runs_table(document: dict[str, Any]) -> str:
    """What was run here."""
    lines = ["| widths | epochs | Pflop | precision | test accuracy, one view | six views |",
             "|---|---:|---:|---|---:|---:|"]  # fmt: skip
    for row in document["runs"]:
        one = row["history"][-1]["test"]["accuracy"]
        lines.append(
            f"| {', '.join(map(str, row['widths']))} | {row['epochs']} | "
            f"{row['training_flops'] / 1e15:.3f} | {row['precision']} | {one:.2%} | "
            f"{row['test']['accuracy']:.2%} |"
        )
    return "\n".join(lines)


def table(document: dict[str, Any]) -> str:
    """Both."""
    return f"{compiled_table(document)}\n\n{runs_table(document)}"


def main() -> None:
    """Add to the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", action="store_true", help="train here")
    parser.add_argument("--widths", default="64,256,256", help="channels of the three groups")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="for H200 and TPU v5e")
    chosen = parser.parse_args()
    document: dict[str, Any] = {"runs": [], "compiled": []}
    if RESULTS.exists():
        document = json.loads(RESULTS.read_text())
    config = catalog.find(NAME).config
    assert config is not None
    each = flops_per_image(config, (32, 32, 3), "train", 10)
    document["training_flops"] = each * STEPS * config.batch_size
    if chosen.run:
        widths = tuple(map(int, chosen.widths.split(",")))
        document["runs"].append(run(widths, chosen.epochs, chosen.seed))
    if chosen.compile:
        document["compiled"] = compiled()
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
