"""The text of an optimized HLO module, taken apart: computations, instructions, bytes, sources."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

ARRAY = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\](?:\{([^}]*)\})?")
BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "f16": 2, "c64": 8, "c128": 16}
BYTES |= {f"{kind}{bits}": bits / 8 for kind in "sufc" for bits in (8, 16, 32, 64)
          if f"{kind}{bits}" not in BYTES}  # fmt: skip
HEAD = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = ")
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
COMMENT = re.compile(r"/\*.*?\*/")
ON_CHIP = "S(1)"  # memory space of a TPU's vector memory, which is not the one that is scarce


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    type: str
    op: str
    operands: tuple[str, ...]
    attributes: str
    root: bool

    def attribute(self, name: str) -> str:
        """The name that follows `name=`, without its %; empty where there is none."""
        match = re.search(rf"\b{name}=%?([\w.\-]+)", self.attributes)
        return match[1] if match else ""

    @property
    def trips(self) -> int:
        """How often a loop runs, 1 where the compiler does not know."""
        match = re.search(r'"known_trip_count":\{"n":"(\d+)"', self.attributes)
        return int(match[1]) if match else 1

    @property
    def cycles(self) -> int | None:
        """The TPU compiler's estimate; None where it has none."""
        match = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
        return int(match[1]) if match else None

    @property
    def target(self) -> str:
        """What a custom call calls."""
        match = re.search(r'custom_call_target="([^"]+)"', self.attributes)
        return match[1] if match else ""

    @property
    def op_name(self) -> str:
        """What jax calls the operation that this one comes from."""
        match = re.search(r'op_name="([^"]*)"', self.attributes)
        return match[1] if match else ""


Computation = dict[str, Instruction]


@dataclass
class Module:
    """Computations by name; `entry` is the name of the one that a call runs."""

    computations: dict[str, Computation]
    entry: str
    tables: dict[str, dict[int, str]] = field(default_factory=dict)

    def root(self, name: str) -> Instruction:
        """The instruction that a computation gives."""
        return next(one for one in self.computations[name].values() if one.root)

    def source(self, one: Instruction) -> str:
        """`file:line function` of the innermost line of this package that it comes from."""
        match = re.search(r"stack_frame_id=(\d+)", one.attributes)
        frame, innermost = int(match[1]) if match else 0, ""
        seen = set()
        while frame in self.tables.get("StackFrames", {}) and frame not in seen:
            seen.add(frame)
            place, frame = _numbers(self.tables["StackFrames"][frame])[:2]
            source = self._place(place)
            innermost = innermost or source
            if source.startswith("flaxcnn/"):
                return source
        return innermost

    def _place(self, number: int) -> str:
        file, function, line = _numbers(self.tables["FileLocations"][number])[:3]
        path = self.tables["FileNames"][file].strip('"')
        path = path[path.rfind("flaxcnn/") :] if "flaxcnn/" in path else path.rsplit("/", 1)[-1]
        name = self.tables["FunctionNames"][function].strip('"').split(".")[-1]
        return f"{path}:{line} {name}"


def _numbers(text: str) -> list[int]:
    """The values of `{a=1 b=2}`."""
    return [int(each) for each in re.findall(r"=(\d+)", text)]


def parse(text: str) -> Module:
    """A module of what `jax.stages.Compiled.as_text` gives."""
    module = Module({}, "")
    table: dict[int, str] | None = None
    now: Computation | None = None
    for raw in text.splitlines():
        if raw in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
            table = module.tables.setdefault(raw, {})
        elif table is not None and (entry := re.match(r"(\d+) (.*)", raw)):
            table[int(entry[1])] = entry[2]
        elif head := COMPUTATION.match(raw):
            table, now = None, module.computations.setdefault(head[2], {})
            module.entry = head[2] if head[1] else module.entry
        elif raw.startswith("}"):
            now = None
        elif now is not None and (one := instruction(COMMENT.sub("", raw))):
            now[one.name] = one
    return module


def instruction(line: str) -> Instruction | None:
    """`name = type op(operands), attributes`; None for another line."""
    head = HEAD.match(line)
    if not head:
        return None
    rest = line[head.end() :]
    end = _closing(rest) + 1 if rest.startswith("(") else rest.find(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    op, parenthesis, _ = rest.partition("(")
    if not parenthesis:
        return None
    rest = rest[len(op) :]
    end = _closing(rest)
    operands = tuple(re.findall(r"%([\w.\-]+)", rest[:end]))
    root = line.lstrip().startswith("ROOT ")
    if op == "parameter":
        return Instruction(head[1], kind, op, (rest[1:end],), rest[end + 1 :], root)
    return Instruction(head[1], kind, op, operands, rest[end + 1 :], root)


def _closing(text: str) -> int:
    """Index of the parenthesis that closes the one at the start."""
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        if depth == 0:
            return place
    return len(text)


@functools.cache
def arrays(kind: str, main: bool = False) -> tuple[float, ...]:
    """Bytes of each array of a type, padded to its tiles; `main`: 0 for one that is on the chip."""
    arrays = [each for each in ARRAY.findall(kind) if each[0] in BYTES]
    return tuple(0.0 if main and _on_chip(each[2]) else _padded(*each) for each in arrays)


def size(kind: str, main: bool = False) -> float:
    """Bytes of all arrays of a type, as `arrays` says them."""
    return sum(arrays(kind, main))


def _on_chip(layout: str) -> bool:
    """On a TPU, whose layouts have tiles; on a GPU the same space is that of exchanges."""
    return ON_CHIP in layout and "T(" in layout


def _padded(kind: str, dims: str, layout: str) -> float:
    shape = [int(each) for each in dims.split(",") if each]
    order, _, tiles = layout.partition(":")
    tile = re.match(r"T\(([\d,]+)\)", tiles)
    if tile and shape and re.fullmatch(r"[\d,]+", order):
        minor = [int(each) for each in order.split(",")]
        for axis, block in zip(minor, reversed(tile[1].split(",")), strict=False):
            shape[axis] = -(-shape[axis] // int(block)) * int(block)
    return math.prod(shape) * BYTES[kind]


def called(module: Module, one: Instruction) -> Iterator[tuple[str, int]]:
    """Computations that run as often as an instruction says, with that number; none of a fusion."""
    if one.op == "while":
        yield one.attribute("body"), one.trips
    elif one.op in ("call", "async-start"):
        name = one.attribute("to_apply") or one.attribute("calls")
        if name in module.computations:
            yield name, 1
    elif one.op == "conditional":
        match = re.search(r"branch_computations=\{([^}]*)\}", one.attributes)
        for name in re.findall(r"[\w.\-]+", match[1]) if match else ():
            yield name, 1


def executed(module: Module, name: str, times: int = 1) -> Iterator[tuple[Instruction, str, int]]:
    """What a computation runs: (instruction, its computation, how often), loops taken apart."""
    for one in module.computations[name].values():
        inside = list(called(module, one))
        if not inside:
            yield one, name, times
        for other, trips in inside:
            yield from executed(module, other, times * trips)
