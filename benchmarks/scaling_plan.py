"""The paper plan: what 8, 64 and 512 chips should give, and what failures should cost.

    python -m benchmarks.scaling_plan            # tables as text
    python -m benchmarks.scaling_plan --json     # benchmarks/results/scaling-plan.json
    python -m benchmarks.scaling_plan --page     # the tables of docs/scaling.md, from that file

Arithmetic only; no jax. Nothing here was measured on a GPU or TPU: the one measured input is images
per second on a CPU (results/peers-cpu.json), and everything else is an assumption with its source.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.models import OWN
from flaxcnn.recipe import catalog
from flaxcnn.recipe.data import KNOWN_DATA
from flaxcnn.recipe.layers import totals

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ROOT / "benchmarks" / "results" / "peers-cpu.json"
RESULTS = MEASURED.with_name("scaling-plan.json")
COMPILED = RESULTS.parent
PAGE = ROOT / "docs" / "scaling.md"
CHART = ROOT / "docs" / "images" / "scaling-plan.svg"

NETWORKS = ("mnist-ladder/model10", "cifar-tuning/model1", "resnet18-cifar")
CHIPS = (8, 64, 512)
BATCH = 128  # images a chip, weak scaling
GLOBAL_BATCH = 4096  # images over all chips, strong scaling
ROWS = {"mnist": 60_000, "fashion_mnist": 60_000, "cifar10": 50_000}  # training rows of the archive
LARGE = 256 * 1024  # engine/sharding.py: a leaf of this size is exchanged on its own
GIGA, MICRO, HOUR = 1e9, 1e-6, 3600.0


@dataclass(frozen=True)
class Assumption:
    """A number that nobody measured here, and where it comes from."""

    value: float
    unit: str
    source: str


BOOK = "How to Scale Your Model (jax-ml.github.io/scaling-book)"
NCCL = "latency table of NCCL's own cost model, protocol LL (src/graph/tuning.cc)"
OURS = "no source: a guess to be replaced by the first measurement"
ASSUMPTIONS = {
    "cpu_peak": Assumption(2e11, "flop/s", "benchmarks/NOTES.md: 100 Gflop/s a core, 2 cores"),
    "derate": Assumption(0.25, "of the CPU's share of peak, on a chip", OURS),
    "gpu_floor": Assumption(100 * MICRO, "s a step, however small the batch", OURS),
    "tpu_floor": Assumption(50 * MICRO, "s a step, however small the batch", OURS),
    "overlap": Assumption(0.0, "of the backward pass hides the all-reduce", "worst case"),
    "host_link": Assumption(15e9, "byte/s a chip, host to device", f"{BOOK}, TPUs: PCIe"),
    "gpu_peak": Assumption(9.9e14, "flop/s, bfloat16, H100 and H200", f"{BOOK}, GPUs"),
    "nvlink": Assumption(450e9, "byte/s a GPU", f"{BOOK}, GPUs: NVLink 4"),
    "infiniband": Assumption(50e9, "byte/s a GPU", f"{BOOK}, GPUs: 400 GB/s a node of 8"),
    "nccl_start": Assumption(6.8 * MICRO, "s an exchange", NCCL),
    "nvlink_step": Assumption(0.6 * MICRO, "s a step", NCCL),
    "infiniband_step": Assumption(5.0 * MICRO, "s a step", NCCL),
    "v5e_peak": Assumption(1.97e14, "flop/s, bfloat16", f"{BOOK}, TPUs"),
    "v5e_clock": Assumption(
        1.97e14 / (4 * 128 * 128 * 2), "cycle/s", "v5e_peak over 4 units of 128 x 128 products"),
    "v5p_peak": Assumption(4.59e14, "flop/s, bfloat16", f"{BOOK}, TPUs"),
    "v6e_peak": Assumption(9.20e14, "flop/s, bfloat16", f"{BOOK}, TPUs"),
    "v5e_ici": Assumption(45e9, "byte/s a link, one way", f"{BOOK}, TPUs"),
    "v5p_ici": Assumption(90e9, "byte/s a link, one way", f"{BOOK}, TPUs"),
    "v6e_ici": Assumption(90e9, "byte/s a link, one way", f"{BOOK}, TPUs"),
    "ici_step": Assumption(1 * MICRO, "s a hop", f"{BOOK}: about 1 microsecond"),
    "dcn": Assumption(25e9 / 8, "byte/s a chip", f"{BOOK}, TPUs: 25 GB/s a host of 8"),
    "dcn_step": Assumption(50 * MICRO, "s a step", OURS),
    "node_mtbf": Assumption(
        2048 * 54 * 24 * HOUR / 419, "s between failures of a node of 8 GPUs",
        "Llama 3 (arXiv:2407.21783): 419 unexpected interruptions in 54 days on 16,384 GPUs"),
    "spot_mtbf": Assumption(24 * HOUR, "s between preemptions of a spot node", OURS),
    "restart": Assumption(
        300.0, "s from a failure to the next step",
        "10 s heartbeat timeout (engine/hosts.py), then placement, start and compilation: a guess"),
    "save": Assumption(5.0, "s for one checkpoint to object storage", OURS),
}  # fmt: skip


# What nobody has measured may be better or worse than assumed: (best, worst) of each guess.
GUESSES = {
    "derate": (0.5, 0.08), "gpu_floor": (30 * MICRO, 300 * MICRO),
    "tpu_floor": (20 * MICRO, 150 * MICRO), "overlap": (1.0, 0.0),
}  # fmt: skip


@dataclass(frozen=True)
class Price:
    """Dollars an hour of one chip on demand, from the cheapest to the dearest offer found."""

    low: float
    high: float
    source: str


PRICED = "2026-11-30"  # when the offers were looked up
PRICES = {
    "H100/H200": Price(1.99, 12.29, "costnimbus.com, March 2026: RunPod 1.99, Lambda 2.99, AWS "
                       "3.90, Azure 6.98; list price of p5.48xlarge before its cuts, 98.32 for 8"),
    "TPU v5e": Price(1.60, 1.60, "blog.easecloud.io, 2026: 1.60 on demand"),
    "TPU v5p": Price(1.20, 4.00, "blog.easecloud.io, 2026: 1.20 spot, 4.00 on demand"),
    "TPU v6e": Price(1.60, 4.00, "no offer found: between v5e and v5p, a guess"),
}  # fmt: skip
_side: int | None = None  # 0: the guesses at their best, 1: at their worst, None: as assumed


def given(name: str) -> float:
    """The assumed number called `name`."""
    if _side is not None and name in GUESSES:
        return GUESSES[name][_side]
    return ASSUMPTIONS[name].value


def ranged(figure: Callable[[], float]) -> list[float]:
    """[lowest, highest] of a figure over the guesses at their best, as assumed, at their worst."""
    global _side
    found = []
    for _side in (0, None, 1):
        found.append(figure())
    _side = None
    return [min(found), max(found)]


@dataclass(frozen=True)
class Level:
    """Chips, or groups of them, that exchange over one kind of link."""

    size: int
    bandwidth: float  # byte/s that one chip sends over this level
    step: float  # s for a message to the next member
    form: str = "ring"  # ring: size - 1 steps each way; tree: log2(size)

    def steps(self) -> int:
        """Steps of one all-reduce: there and back."""
        return 2 * (math.ceil(math.log2(self.size)) if self.form == "tree" else self.size - 1)


@dataclass(frozen=True)
class Fabric:
    """A kind of chip and how n of them are connected."""

    name: str
    peak: float
    floor: float
    start: float  # s for an exchange to begin
    shapes: dict[int, tuple[Level, ...]]


def gpus() -> Fabric:
    """Nodes of 8 on NVSwitch, InfiniBand between them."""
    node = Level(8, given("nvlink"), given("nvlink_step"))
    shapes: dict[int, tuple[Level, ...]] = {8: (node,)}
    for chips in CHIPS[1:]:
        between = Level(chips // 8, given("infiniband"), given("infiniband_step"), "tree")
        shapes[chips] = (node, between)
    return Fabric("H100/H200", given("gpu_peak"), given("gpu_floor"), given("nccl_start"), shapes)


def tpus(kind: str) -> Fabric:
    """Slices as tori. An axis without wrap-around links has half their bandwidth."""
    one_way, hop = given(f"{kind}_ici"), given("ici_step")

    def axes(*sizes: int, wrapped: bool = False) -> tuple[Level, ...]:
        return tuple(Level(size, one_way * (2 if wrapped else 1), hop) for size in sizes)

    if kind == "v5p":
        shapes = {8: axes(2, 2, 2), 64: axes(4, 4, 4, wrapped=True),
                  512: axes(8, 8, 8, wrapped=True)}  # fmt: skip
    else:  # a pod has 256 chips: 512 are two slices over the data-centre network
        pods = Level(2, given("dcn"), given("dcn_step"))
        shapes = {8: axes(2, 4), 64: axes(8, 8), 512: (*axes(16, 16, wrapped=True), pods)}
    return Fabric(f"TPU {kind}", given(f"{kind}_peak"), given("tpu_floor"), 0.0, shapes)


def fabrics() -> list[Fabric]:
    """All kinds of chips of the plan."""
    return [gpus(), *(tpus(kind) for kind in ("v5e", "v5p", "v6e"))]


@dataclass(frozen=True)
class Network:
    """What the plan needs to know of a recipe."""

    name: str
    dataset: str
    params: int
    trainable: int
    macs: int
    exchanges: int  # all-reduces of a step
    image_bytes: int
    rows: int
    epochs: int
    cpu_images_per_second: float

    @property
    def gradient_bytes(self) -> int:
        """float32, whatever the precision of the computation."""
        return 4 * self.trainable

    @property
    def flops(self) -> int:
        """Of training on one image: a product forward and two backward."""
        return 6 * self.macs

    @property
    def cpu_share(self) -> float:
        """Of the CPU's peak, as measured; minimal filtering can pass it."""
        return min(self.cpu_images_per_second * self.flops / given("cpu_peak"), 1.0)


def network(name: str) -> Network:
    """A recipe of the catalog or of the benchmarks, with its measured speed on CPU."""
    config = (OWN.get(name) or catalog.find(name)).config
    assert config is not None
    shape = KNOWN_DATA[config.dataset].shape
    table = config.table(*KNOWN_DATA[config.dataset])
    counted = totals(table)
    norms = sum(row.name.startswith("batch_norm") for row in table)
    large = sum(4 * row.trainable >= LARGE for row in table)
    return Network(
        name=name, dataset=config.dataset, params=counted["params"],
        trainable=counted["trainable_params"], macs=counted["macs"],
        # Small leaves share one; a norm has one each way on chips (on CPU one more, forward).
        exchanges=1 + large + 2 * norms,
        image_bytes=math.prod(shape), rows=ROWS[config.dataset], epochs=config.epochs,
        cpu_images_per_second=measured(name),
    )  # fmt: skip


def measured(name: str) -> float:
    """Median training images per second of flaxcnn on CPU, from the results."""
    wanted = {"model": name, "peer": "flaxcnn", "group": "throughput"}
    rows = json.loads(MEASURED.read_text())["rows"]
    found = [row for row in rows if wanted.items() <= row.items()]
    return found[-1]["train_images_per_second"]["median"]


# The model. Seconds, bytes and counts; each function is one line of docs/scaling.md.


def all_reduce(nbytes: float, exchanges: int, levels: Sequence[Level], start: float = 0.0) -> float:
    """Seconds to add `nbytes` over all chips, in `exchanges` parts, level by level.

    Each level adds what the levels before it left: a ring moves 2 (n-1)/n of it over each link.
    """
    seconds = 0.0
    for level in levels:
        seconds += 2 * (level.size - 1) / level.size * nbytes / level.bandwidth
        seconds += exchanges * level.steps() * level.step
        nbytes /= level.size
    return seconds + exchanges * start


def compute(net: Network, fabric: Fabric, batch: float) -> float:
    """Seconds of one chip for its part of a step."""
    return fabric.floor + batch / rate(net, fabric)


def rate(net: Network, fabric: Fabric) -> float:
    """Images per second of one chip, were there no floor."""
    return fabric.peak * net.cpu_share * given("derate") / net.flops


def step_time(compute: float, feed: float, exchange: float, overlap: float = 0.0) -> float:
    """max(compute, input) + the all-reduce that the backward pass (two thirds) does not hide."""
    return max(compute, feed) + max(exchange - overlap * compute * 2 / 3, 0.0)


def step(net: Network, fabric: Fabric, chips: int, batch: float) -> dict[str, float]:
    """A step of `chips` chips with `batch` images each."""
    levels = fabric.shapes[chips] if chips > 1 else ()
    exchange = (
        all_reduce(net.gradient_bytes, net.exchanges, levels, fabric.start) if levels else 0.0
    )
    busy = compute(net, fabric, batch)
    feed = batch * net.image_bytes / given("host_link")
    total = step_time(busy, feed, exchange, given("overlap"))
    return {"compute": busy, "input": feed, "all_reduce": exchange, "step": total}


def hiding_batch(net: Network, fabric: Fabric, chips: int) -> int:
    """Images a chip from which on two thirds of compute last as long as the all-reduce."""
    exchange = all_reduce(net.gradient_bytes, net.exchanges, fabric.shapes[chips], fabric.start)
    return max(math.ceil((exchange * 3 / 2 - fabric.floor) * rate(net, fabric)), 1)


def mtbf(nodes: int, of_a_node: float) -> float:
    """Seconds between failures of any of `nodes`, independent and at a constant rate."""
    return of_a_node / nodes


def interval(save: float, between_failures: float) -> float:
    """Young and Daly: the time between checkpoints that loses least, sqrt(2 save MTBF)."""
    return math.sqrt(2 * save * between_failures)


def lost(save: float, every: float, between_failures: float, restart: float) -> float:
    """Share of the time spent saving, computed again after failures, or restarting."""
    return save / every + (every / 2 + restart) / between_failures


# The tables.


def weak(nets: Sequence[Network]) -> list[dict[str, Any]]:
    """The batch grows with the chips."""
    rows = []
    for net in nets:
        for fabric in fabrics():
            alone = step(net, fabric, 1, BATCH)["step"]
            for chips in CHIPS:
                found = step(net, fabric, chips, BATCH)
                per_second = chips * BATCH / found["step"]
                known = (net, fabric.name, chips)
                rows.append({"network": net.name, "fabric": fabric.name, "chips": chips, **found,
                             "efficiency": alone / found["step"], "images_per_second": per_second,
                             "hiding_batch": hiding_batch(net, fabric, chips),
                             "input_bytes_per_second": per_second * net.image_bytes,
                             "steps_an_epoch": math.ceil(net.rows / (chips * BATCH)),
                             **weak_ranges(*known)})  # fmt: skip
    return rows


def weak_ranges(net: Network, name: str, chips: int) -> dict[str, list[float]]:
    """Step, efficiency and images a second, from the lowest to the highest."""
    taken = lambda many: step(net, fabric_named(name), many, BATCH)["step"]  # noqa: E731
    return {
        "step_range": ranged(lambda: taken(chips)),
        "efficiency_range": ranged(lambda: taken(1) / taken(chips)),
        "images_per_second_range": ranged(lambda: chips * BATCH / taken(chips)),
    }


def fabric_named(name: str) -> Fabric:
    """One kind of chip, with the guesses as they are now."""
    return next(fabric for fabric in fabrics() if fabric.name == name)


def strong(nets: Sequence[Network]) -> list[dict[str, Any]]:
    """The batch stays: each chip has less of it."""
    rows = []
    for net in nets:
        for fabric in fabrics():
            alone = step(net, fabric, 1, GLOBAL_BATCH)["step"]
            for chips in CHIPS:
                found = step(net, fabric, chips, GLOBAL_BATCH / chips)
                speedup = alone / found["step"]
                seconds = net.epochs * math.ceil(net.rows / GLOBAL_BATCH) * found["step"]
                rows.append({"network": net.name, "fabric": fabric.name, "chips": chips, **found,
                             "speedup": speedup, "efficiency": speedup / chips,
                             "run_seconds": seconds,
                             **strong_ranges(net, fabric.name, chips)})  # fmt: skip
    return rows


def strong_ranges(net: Network, name: str, chips: int) -> dict[str, list[float]]:
    """Step, speed-up and whole run, from the lowest to the highest."""

    def taken(many: int) -> float:
        return step(net, fabric_named(name), many, GLOBAL_BATCH / many)["step"]

    steps = net.epochs * math.ceil(net.rows / GLOBAL_BATCH)
    return {
        "step_range": ranged(lambda: taken(chips)),
        "speedup_range": ranged(lambda: taken(1) / taken(chips)),
        "run_range": ranged(lambda: steps * taken(chips)),
    }


def costs(nets: Sequence[Network]) -> list[dict[str, Any]]:
    """Dollars of a whole run on one node of 8: of its training alone, and with one start."""
    rows = []
    for net in nets:
        for name, price in PRICES.items():
            low, high = strong_ranges(net, name, 8)["run_range"]
            hour = [8 * price.low / HOUR, 8 * price.high / HOUR]
            start = given("restart")
            begun = [low + start, high + start]
            rows.append({"network": net.name, "fabric": name, "chips": 8, "seconds": [low, high],
                         "training": [low * hour[0], high * hour[1]],
                         "with_start": [begun[0] * hour[0], begun[1] * hour[1]]})  # fmt: skip
    return rows


def failures() -> list[dict[str, Any]]:
    """What failures cost at each size, reserved and spot."""
    rows = []
    for kind in ("node_mtbf", "spot_mtbf"):
        for chips in CHIPS:
            between = mtbf(chips // 8, given(kind))
            every = interval(given("save"), between)
            share = lost(given("save"), every, between, given("restart"))
            rows.append({"kind": kind, "chips": chips, "nodes": chips // 8, "mtbf": between,
                         "interval": every, "lost": share})  # fmt: skip
    return rows


def compiled() -> list[dict[str, Any]]:
    """One step on one chip as compilers estimate it: of `flaxcnn bench --compile-for`, if any."""
    wanted = {"program": "train_epoch", "implementation": "flaxcnn", "devices": 1}
    found = []
    for path in sorted(COMPILED.glob("compiled-*.json")):
        for row in json.loads(path.read_text())["results"]:
            if row["experiment"] in NETWORKS and wanted.items() <= row.items():
                keys = ("experiment", "target", "precision", "cycles", "bytes_accessed")
                found.append({key: row.get(key) for key in keys})
    return found


def plan() -> dict[str, Any]:
    """The whole plan as one document."""
    nets = [network(name) for name in NETWORKS]
    return {
        "plan": True,
        "measured": "cpu_images_per_second of the networks, and nothing else",
        "assumptions": {name: asdict(one) for name, one in ASSUMPTIONS.items()},
        "batch": BATCH, "global_batch": GLOBAL_BATCH,
        "networks": [{**asdict(net), "gradient_bytes": net.gradient_bytes, "flops": net.flops,
                      "cpu_share": net.cpu_share} for net in nets],
        "guesses": {name: list(ends) for name, ends in GUESSES.items()},
        "priced": PRICED, "prices": {name: asdict(one) for name, one in PRICES.items()},
        "weak": weak(nets), "strong": strong(nets), "failures": failures(), "compiled": compiled(),
        "costs": costs(nets),
    }  # fmt: skip


def grid(heads: Sequence[str], rows: Sequence[Sequence[str]], text: Sequence[int] = (0,)) -> str:
    """A Markdown table; the columns `text` hold words, the others numbers."""
    rule = ["---" if place in text else "---:" for place in range(len(heads))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, rule, *rows))


def duration(seconds: float) -> str:
    """Seconds as people read them."""
    for limit, size, unit in ((1e-3, 1e-6, "µs"), (1.0, 1e-3, "ms"), (600.0, 1.0, "s"),
                              (36_000.0, 60.0, "min"), (48 * HOUR, HOUR, "h")):  # fmt: skip
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / (24 * HOUR):,.0f} d"


def count(number: float) -> str:
    """Three digits and a letter."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.3g}"


def between(ends: Sequence[float], show: Callable[[float], str]) -> str:
    """`80 to 300 µs`: two digits each, the unit once where it is the same."""
    low, high = show(ends[0]), show(ends[1])
    if low == high:
        return low
    (first, _, one), (last, _, other) = low.rpartition(" "), high.rpartition(" ")
    return f"{first} to {high}" if first and last and one == other else f"{low} to {high}"


def rough(seconds: float) -> str:
    """Seconds with two digits."""
    return duration(float(f"{seconds:.2g}"))


def rough_count(number: float) -> str:
    """A count with two digits."""
    return count(float(f"{number:.2g}"))


def dollars(amount: float) -> str:
    """`$0.02`, or less than a cent."""
    return "< $0.01" if amount < 0.01 else f"${amount:.2f}" if amount < 10 else f"${amount:.0f}"


def network_table(document: dict[str, Any]) -> str:
    """What goes in."""
    return grid(
        ("network", "parameters", "multiply-adds an image", "gradient bytes", "exchanges a step",
         "measured on 2 CPU cores", "of their peak"),
        [(one["name"], f"{one['params']:,}", count(one["macs"]), f"{count(one['gradient_bytes'])}B",
          str(one["exchanges"]), f"{one['cpu_images_per_second']:,.0f} images/s",
          f"{one['cpu_share']:.0%}") for one in document["networks"]],
    )  # fmt: skip


def weak_table(document: dict[str, Any]) -> str:
    """A fixed batch a chip."""
    return grid(
        ("plan for", "chips are", "chips", "step", "efficiency", "images/s", "steps an epoch"),
        [(row["network"], row["fabric"], str(row["chips"]), between(row["step_range"], rough),
          between(row["efficiency_range"], lambda share: f"{share:.0%}"),
          between(row["images_per_second_range"], rough_count), str(row["steps_an_epoch"]))
         for row in document["weak"]], text=(0, 1),
    )  # fmt: skip


def compiled_table(document: dict[str, Any]) -> str:
    """What compilers estimate, or that nobody has asked them yet."""
    if not (rows := document["compiled"]):
        return (
            "Not there yet (`benchmarks/results/compiled-*.json`). Until then the step times of "
            "this page are arithmetic\nbounds and no estimates: compute is peak times a guessed "
            "share, and a compiled program can take several times as long."
        )

    def time(row: dict[str, Any]) -> str:
        known = row["cycles"] and row["target"] == "v5e"
        return duration(row["cycles"] / given("v5e_clock")) if known else "–"

    return grid(
        ("network", "compiled for", "precision", "cycles a step", "time at its clock", "bytes"),
        [(row["experiment"], row["target"], row["precision"],
          f"{row['cycles']:,.0f}" if row["cycles"] else "–", time(row),
          f"{count(row['bytes_accessed'])}B" if row["bytes_accessed"] else "–") for row in rows],
        text=(0, 1, 2),
    )  # fmt: skip


def strong_table(document: dict[str, Any]) -> str:
    """A fixed batch in all."""
    return grid(
        ("plan for", "chips are", "chips", "images a chip", "step", "speed-up", "whole run"),
        [(row["network"], row["fabric"], str(row["chips"]),
          f"{document['global_batch'] // row['chips']}", between(row["step_range"], rough),
          between(row["speedup_range"], lambda times: f"{times:.2g}"),
          between(row["run_range"], rough))
         for row in document["strong"]], text=(0, 1),
    )  # fmt: skip


def cost_table(document: dict[str, Any]) -> str:
    """Dollars of a run on one node."""
    return grid(
        ("plan for", "8 chips of", "training alone", "with one start of 5 minutes"),
        [(row["network"], row["fabric"], between(row["training"], dollars),
          between(row["with_start"], dollars)) for row in document["costs"]], text=(0, 1),
    )  # fmt: skip


def price_table(document: dict[str, Any]) -> str:
    """What a chip costs an hour."""
    return grid(
        ("chip", "$ an hour of one", f"source, looked up {document['priced']}"),
        [(name, between([one["low"], one["high"]], lambda price: f"{price:.2f}"), one["source"])
         for name, one in document["prices"].items()], text=(0, 2),
    )  # fmt: skip


def chart(document: dict[str, Any]) -> None:
    """Images a second over the number of chips, with the range of the guesses."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    from flaxcnn.reports.print_style import DASHES, MARKERS, PALETTE, printed, write_picture

    with printed():
        figure = Figure((7.5, 2.9), layout="constrained")
        panels = figure.subplots(1, len(NETWORKS))
        for axes, name in zip(panels, NETWORKS, strict=True):
            kinds = dict.fromkeys(row["fabric"] for row in document["weak"])
            for number, kind in enumerate(kinds):
                rows = [row for row in document["weak"]
                        if (row["network"], row["fabric"]) == (name, kind)]  # fmt: skip
                chips = [row["chips"] for row in rows]
                ends = [row["images_per_second_range"] for row in rows]
                low, high = zip(*ends, strict=True)
                axes.fill_between(chips, low, high, color=PALETTE[number], alpha=0.13, linewidth=0)
                axes.plot(chips, [row["images_per_second"] for row in rows], DASHES[number],
                          color=PALETTE[number], marker=MARKERS[number], label=kind)  # fmt: skip
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xticks(CHIPS, [str(each) for each in CHIPS])
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
            axes.set_xlabel("chips")
            axes.set_title(name, loc="left")
        panels[0].set_ylabel("images per second")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        write_picture(CHART, figure)


def by_chips(document: dict[str, Any], show: Callable[[dict[str, Any]], str]) -> str:
    """One figure of the weak plan, a column for each number of chips."""
    rows = {}
    for row in document["weak"]:
        rows.setdefault((row["network"], row["fabric"]), []).append(show(row))
    return grid(("plan for", "chips are", *(f"{chips} chips" for chips in CHIPS)),
                [(*key, *cells) for key, cells in rows.items()], text=(0, 1))  # fmt: skip


def hiding_table(document: dict[str, Any]) -> str:
    """From which batch on the all-reduce can hide."""
    return by_chips(document, lambda row: f"{row['hiding_batch']:,}")


def input_table(document: dict[str, Any]) -> str:
    """What the input must deliver, all hosts together."""
    return by_chips(document, lambda row: f"{count(row['input_bytes_per_second'])}B/s")


def failure_table(document: dict[str, Any]) -> str:
    """What failures cost."""
    kinds = {"node_mtbf": "reserved", "spot_mtbf": "spot"}
    return grid(
        ("plan for", "chips", "nodes", "between failures", "checkpoint every", "time lost"),
        [(kinds[row["kind"]], str(row["chips"]), str(row["nodes"]), duration(row["mtbf"]),
          duration(row["interval"]), f"{row['lost']:.2%}") for row in document["failures"]],
    )  # fmt: skip


def assumption_table(document: dict[str, Any]) -> str:
    """What is assumed, and why."""
    return grid(("assumption", "value", "unit", "source"),
                [(f"`{name}`", f"{one['value']:.4g}", one["unit"], one["source"])
                 for name, one in document["assumptions"].items()], text=(0, 2, 3))  # fmt: skip


TABLES = {
    "networks": network_table, "weak": weak_table, "compiled": compiled_table,
    "strong": strong_table, "hiding": hiding_table,
    "input": input_table, "failures": failure_table, "assumptions": assumption_table,
    "costs": cost_table, "prices": price_table,
}  # fmt: skip


def with_tables(text: str, document: dict[str, Any]) -> str:
    """The page `text` with what stands between its markers made anew."""
    for name, table in TABLES.items():
        begin, end = f"<!-- plan {name} -->", f"<!-- /plan {name} -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n\n{table(document)}\n\n{end}{rest.split(end)[1]}"
    return text


def main() -> None:
    """Print the tables, or write them."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--json", action="store_true", help=f"write {RESULTS.name}")
    options.add_argument("--page", action="store_true", help="write the tables of docs/scaling.md")
    chosen = options.parse_args()
    if chosen.json:
        RESULTS.write_text(json.dumps(plan(), indent=1) + "\n")
        print(RESULTS.relative_to(ROOT))
    if chosen.page:
        document = json.loads(RESULTS.read_text())
        PAGE.write_text(with_tables(PAGE.read_text(), document))
        chart(document)
        print(PAGE.relative_to(ROOT))
    if not (chosen.json or chosen.page):
        document = plan()
        print("PLAN: arithmetic on assumptions, measured on no GPU and no TPU.")
        for name, table in TABLES.items():
            print(f"\n{name}\n\n{table(document)}")


if __name__ == "__main__":
    main()
