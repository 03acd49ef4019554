"""Compile one program for one chip and print its figures as a line of JSON.

A process of its own: jax looks for plugins when it starts, and a failed check in a TPU's compiler
ends the process.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flaxcnn.accelerators import targets

OUT_OF_MEMORY = "out of memory"  # kind of error


def prepare(folder: str, dump: str) -> None:
    """The environment that jax reads when it is imported.

    Args:
        folder: where the plugins are; empty: in the environment.
        dump: where XLA writes what a GPU's host launches, which nothing else tells.
    """
    if folder:
        sys.path.insert(0, folder)
    os.environ |= {
        "JAX_PLATFORMS": "cpu",  # plugins are there to compile, and no device is looked for
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "XLA_FLAGS": f"--xla_dump_to={dump} --xla_dump_hlo_as_text "
        "--xla_dump_hlo_module_re=.*(train_epoch|evaluate|alive_units).*",
    }


def devices_of(target: targets.Target, chips: int) -> list[Any]:
    """Devices to compile for, none of which can run anything."""
    from jax.experimental import topologies

    shape = target.shapes[chips]
    if target.kind == "tpu":
        topology = topologies.get_topology_desc(f"{target.name}:{shape}", "tpu")
    else:
        spec = (targets.SPECS / f"{target.name}.txtpb").read_text()
        topology = topologies.get_topology_desc(
            target.name, "cuda", topology=shape, target_config=spec
        )
    return list(topology.devices)[:chips]


def compiled_case(case: Mapping[str, Any], dump: Path) -> dict[str, Any]:
    """The figures of one case, as `Case.to_dict` says it."""
    from flaxcnn.accelerators import programs
    from flaxcnn.engine import sharding
    from flaxcnn.engine.devices import devices_used
    from flaxcnn.engine.programs import compile_program
    from flaxcnn.recipe.config import Config

    target, chips = targets.parse(case["target"])
    config = Config.from_dict(case["config"])
    name, steps = case["program"], case["steps"]
    with devices_used(devices_of(target, chips)):
        began = time.perf_counter()
        job, state = programs.abstract_job(config, chips, case["width"], steps)
        if case["implementation"] == "flax":
            executable = programs.plain_traced(config, name, steps).lower().compile()
        else:
            traced = job.traced(programs.PROGRAMS[name], state)
            executable = compile_program(traced.lower(), job.plan)
        seconds = time.perf_counter() - began
        run_devices = sharding.choose_sharding(config).devices
    if case["keep"]:
        Path(case["keep"]).write_text(executable.as_text())
    images = config.batch_size if name == "train_epoch" else job.eval_shape()[1]
    return {
        "devices": job.plan.sharding.devices,
        "run_devices": run_devices,  # that a run would use of these
        "images": images * max(case["width"], 1),  # of a step
        "compile_seconds": round(seconds, 1),
        **figures(executable, target, dump),
        "flops": flops(config, job.dataset.shape, name, images) * max(case["width"], 1),
    }


def flops(config: Any, shape: Any, program: str, images: int) -> int:
    """Of a step, from the recipe alone."""
    from flaxcnn.bench import flops_per_image

    return images * flops_per_image(config, shape, "train" if program == "train_epoch" else "eval")


def figures(executable: Any, target: targets.Target, dump: Path) -> dict[str, Any]:
    """What a compiled program does in a step, and holds."""
    from flaxcnn.accelerators import count, hlo

    counts = count.step(hlo.parse(executable.as_text()), target.kind)
    counts |= {"launches": None, "call_launches": None}
    written = sorted(dump.glob("*thunk_sequence_after_thunk_passes.txt"), key=os.path.getsize)
    if target.kind == "gpu" and written:
        counts |= count.launches(count.thunks(written[-1].read_text()))
    memory = executable.memory_analysis()
    held = {
        "temporary_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes - memory.alias_size_in_bytes,
    }
    return {**counts, **held, "fits": sum(held.values()) <= target.memory}


def main(arguments: list[str]) -> None:
    """`compile_for CASE FOLDER`: both as `flaxcnn.accelerators.cases` gives them."""
    from flaxcnn.errors import ConfigError

    case, folder = json.loads(arguments[0]), arguments[1]
    with tempfile.TemporaryDirectory() as dump:
        prepare(folder, dump)
        try:
            row = compiled_case(case, Path(dump))
        except ConfigError as error:
            row = {"error": str(error), "kind": "config"}
        except Exception as error:  # of jax and of its plugins, whatever they raise
            text = " ".join(f"{type(error).__name__}: {error}".split())
            short = "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower()
            row = {"error": text[:400], "kind": OUT_OF_MEMORY if short else "compiler"}
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
