"""What a compiled program does in one step: kernels, launches, bytes, exchanges, cycles."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from flaxcnn.accelerators.hlo import Instruction, Module, arrays, executed, size

# Names, parts of tuples, and the second half of what was started before
FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "iota",
        "partition-id", "replica-id", "opt-barrier", "domain", "add-dependency"}  # fmt: skip
# Calls of a TPU's compiler that name memory, or say what is known of row numbers
NOTES = {"AllocateBuffer", "AssumeGatherIndicesInBound", "ConcatBitcast"}
# What is fetched to a TPU's vector memory while others compute, or put back
FETCHES = ("copy", "copy-start", "slice-start")
COLLECTIVES = re.compile(
    r"^(all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|ragged-all-to-all)"
    r"(-start)?$"
)
CONVOLUTIONS = {
    "__cudnn$convForward": "forward",
    "__cudnn$convBiasActivationForward": "forward",
    "__cudnn$convForwardGraph": "forward",
    "__cudnn$convBackwardFilter": "backward filter",
    "__cudnn$convBackwardInput": "backward input",
}
LARGEST = 10  # instructions that are named


# -- bytes ---------------------------------------------------------------------------------------


def moved(module: Module, one: Instruction, computation: str, main: bool = False) -> float:
    """Bytes that an instruction reads and writes, as its shapes say.

    Of what is only sliced or gathered from, what is taken counts; of what is updated in place, the
    update. With `main`, of a TPU, only those of its main memory.
    """
    if one.op in FREE or one.target in NOTES or one.op.endswith(("-done", "-update")):
        return 0.0
    around = module.computations[computation]
    kinds = [around[name].type if name in around else "" for name in one.operands]
    match one.op:
        case "fusion":
            return _read(module, one, kinds, main) + _written(module, one, main)
        case "dynamic-slice" | "gather":
            return 2 * size(one.type, main)
        case "dynamic-update-slice":
            return 2 * size(kinds[1], main)
        case "copy-start":  # gives (copy, original, context)
            return arrays(one.type, main)[0] + size(kinds[0], main)
        case "slice-start":  # gives ((original), slice, context); what it reads is as large
            return arrays(one.type, main)[1] + arrays(one.type)[1]
    if one.op.endswith("-start"):  # (operands, results)
        return size(one.type, main)
    return sum(size(kind, main) for kind in kinds) + size(one.type, main)


def _read(module: Module, one: Instruction, kinds: list[str], main: bool) -> float:
    """Of a fusion."""
    inside = module.computations[one.attribute("calls")]
    parameters = {
        int(each.operands[0]): each.name for each in inside.values() if each.op == "parameter"
    }
    total = 0.0
    for number, kind in enumerate(kinds):
        taken = _taken(inside, parameters[number]) if number in parameters else float("inf")
        total += min(taken, size(kind, main))
    return total


def _taken(inside: dict[str, Instruction], name: str) -> float:
    """Bytes of an array that its users inside a fusion look at."""
    total = 0.0
    for user in inside.values():
        if name not in user.operands or user.op == "parameter":
            continue
        if user.op in ("bitcast", "reshape"):
            total += _taken(inside, user.name)
        elif user.op in ("dynamic-slice", "gather") and user.operands[0] == name:
            total += size(user.type)
        elif user.op != "dynamic-update-slice" or user.operands[0] != name:
            return float("inf")
    return total


def _written(module: Module, one: Instruction, main: bool) -> float:
    """Of a fusion; what updates an array in place writes the update."""
    inside = module.computations[one.attribute("calls")]
    root = module.root(one.attribute("calls"))
    parts = [inside[name] for name in root.operands] if root.op == "tuple" else [root]
    total = 0.0
    for part, whole in zip(parts, arrays(one.type, main), strict=False):
        part = _behind(inside, part)
        updates = part.op == "dynamic-update-slice"
        total += min(size(inside[part.operands[1]].type), whole) if updates else whole
    return total


def _behind(inside: dict[str, Instruction], one: Instruction) -> Instruction:
    while one.op == "bitcast" and one.operands[0] in inside:
        one = inside[one.operands[0]]
    return one


# -- a step --------------------------------------------------------------------------------------


def loop(module: Module) -> tuple[str, int]:
    """(body, trips) of the loop over batches: the one that runs the most instructions in a trip.

    A program without one, as that of a single batch, is its own body.
    """
    loops = [
        (len(list(executed(module, one.attribute("body")))), one.attribute("body"), one.trips)
        for computation in _reached(module, module.entry)
        for one in module.computations[computation].values()
        if one.op == "while"
    ]
    if not loops:
        return module.entry, 1
    # A loop inside another is shorter than that one
    return max(loops)[1:]


def _reached(module: Module, name: str) -> Iterator[str]:
    """A computation and those that it calls, but for the bodies of loops."""
    yield name
    for one in module.computations[name].values():
        if one.op == "call" and (inside := one.attribute("to_apply")) in module.computations:
            yield from _reached(module, inside)


def convolutions(module: Module, body: str) -> dict[str, int]:
    """How many convolutions of each kind a step has, library calls and the compiler's own."""
    counts: collections.Counter[str] = collections.Counter()
    for one, _, times in executed(module, body):
        if kind := CONVOLUTIONS.get(one.target):
            counts[kind] += times
        inside = module.computations.get(one.attribute("calls"), {}) if one.op == "fusion" else {}
        for each in [one, *inside.values()]:
            if each.op == "convolution" and "window={size=" in each.attributes:
                backward = "transpose(jvp" in each.op_name
                counts["backward" if backward else "forward"] += times
    return dict(sorted(counts.items()))


def collectives(module: Module, body: str) -> tuple[dict[str, int], float]:
    """(how many of each kind, bytes that a device hands in) in a step."""
    counts: collections.Counter[str] = collections.Counter()
    total = 0.0
    for one, computation, times in executed(module, body):
        if kind := COLLECTIVES.match(one.op):
            around = module.computations[computation]
            counts[kind[1]] += times
            total += times * sum(size(around[name].type) for name in one.operands if name in around)
    return dict(sorted(counts.items())), total


def step(module: Module, kind: str) -> dict[str, Any]:
    """Figures of one trip of the loop over batches.

    Args:
        module: of the program.
        kind: "gpu" or "tpu".

    Returns:
        `convolutions` and `collectives` by kind, `collective_bytes`, `bytes_accessed`, `main_bytes`
        of a TPU's main memory alone (on a GPU all of them), `custom_calls` that are no
        convolutions, `loops` inside, `cycles` with `unestimated_bytes` of what has no estimate
        (None on a GPU), `transposes` and `kernels` as HLO has them, and the `largest` instructions
        by cycles or, on a GPU, by bytes.
    """
    body, trips = loop(module)
    rows, main = [], 0.0
    for one, computation, times in executed(module, body):
        nbytes = moved(module, one, computation)
        main += times * moved(module, one, computation, main=True)
        if nbytes or one.cycles:
            rows.append((one, times, nbytes * times, (one.cycles or 0) * times))
    exchanged, exchanged_bytes = collectives(module, body)
    calls = collections.Counter(
        one.target for one, *_ in executed(module, body)
        if one.op == "custom-call" and one.target not in {*CONVOLUTIONS, *NOTES}
    )  # fmt: skip
    unestimated = [row for row in rows if row[0].cycles is None and row[0].op not in FETCHES]
    order = sorted(rows, key=lambda row: row[3] if kind == "tpu" else row[2], reverse=True)
    moves = [row for row in rows if row[0].op in ("copy", "transpose")]
    return {
        "trips": trips,
        "convolutions": convolutions(module, body),
        "collectives": exchanged,
        "collective_bytes": round(exchanged_bytes),
        "bytes_accessed": round(sum(row[2] for row in rows)),
        "main_bytes": round(main),
        "custom_calls": dict(sorted(calls.items())),
        "loops": sum(one.op == "while" for one in module.computations[body].values()),
        "cycles": sum(row[3] for row in rows) if kind == "tpu" else None,
        "unestimated_bytes": round(sum(row[2] for row in unestimated)) if kind == "tpu" else None,
        "kernels": sum(row[1] for row in rows),
        "transposes": sum(row[1] for row in moves),
        "largest": [_named(module, *row) for row in order[:LARGEST]],
    }


def _named(
    module: Module, one: Instruction, times: int, nbytes: float, cycles: int
) -> dict[str, Any]:
    kind = one.type if len(one.type) <= 80 else one.type[:77] + "..."
    return {
        "name": one.name, "op": one.target or one.op, "times": times, "bytes": round(nbytes),
        "cycles": cycles or None, "type": kind, "source": module.source(one),
        "op_name": one.op_name[-100:],
    }  # fmt: skip


# -- what a GPU's host launches ------------------------------------------------------------------


@dataclass
class Thunk:
    """One thing to launch, or one that holds others: a graph, a loop."""

    kind: str
    text: str
    depth: int
    parts: list[Thunk] = field(default_factory=list)  # of a loop, those of its body

    def leaves(self) -> Iterator[Thunk]:
        """Kernels, copies and library calls."""
        if self.kind not in HOLDERS:
            yield self
        for part in self.parts:
            yield from part.leaves()


HOLDERS = ("kCommandBuffer", "kWhile", "kSequential", "kConditional", "root")
THUNK = re.compile(r"( *)\d+: (k\w+)\s+\[.*?\]\s*(.*)")


def thunks(text: str) -> Thunk:
    """The tree of a dump of thunks as XLA writes it after its passes."""
    root = Thunk("root", "", -1)
    stack = [root]
    condition = False  # what a loop computes to see whether it goes on is not part of its body
    hidden = Thunk("root", "", -1)
    for line in text.splitlines():
        if line.strip() in ("condition:", "body:"):
            condition = line.strip() == "condition:"
            continue
        if not (match := THUNK.match(line)):
            continue
        one = Thunk(match[2], match[3], len(match[1]))
        while stack[-1].depth >= one.depth:
            stack.pop()
        inside_loop = stack[-1].kind == "kWhile"
        (hidden if condition and inside_loop else stack[-1]).parts.append(one)
        if one.kind in HOLDERS:
            stack.append(one)
    return root


def launches(root: Thunk) -> dict[str, Any]:
    """Of a step: `kernels`, `launches` by the host, `transposes`; of a call: `call_launches`.

    A graph is one launch, and so is all that a loop inside it does: a step of it costs the host
    none. A program without a loop is a step.
    """
    loops = list(_loops(root, False))
    body, in_graph = max(loops, key=lambda each: len(list(each[0].leaves())), default=(root, False))
    leaves = list(body.leaves())
    outside = sum(one.kind != "kWhile" for one in root.parts) if loops else 0
    return {
        "kernels": len(leaves),
        "launches": 0 if in_graph else len(body.parts),
        "call_launches": outside,
        "transposes": sum("transpose" in one.text.split(" ")[0] for one in leaves),
    }


def _loops(one: Thunk, in_graph: bool) -> Iterator[tuple[Thunk, bool]]:
    for part in one.parts:
        if part.kind == "kWhile":
            yield part, in_graph
        yield from _loops(part, in_graph or part.kind == "kCommandBuffer")
