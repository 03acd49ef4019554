"""What a queue has to do: trainings, stacks of seeds and searches, cheapest first. No jax.

The cost of a training is its multiply-adds: of one image, times training rows, times epochs. What
that takes in hours is read off the rows that are there, made by networks of a like size.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flaxcnn.errors import ConfigError, DataError, near_miss
from flaxcnn.recipe import catalog
from flaxcnn.recipe.catalog import Experiment
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.data import KNOWN_DATA
from flaxcnn.recipe.layers import totals
from flaxcnn.recipe.splits import Archive, Permuted, Ranges
from flaxcnn.results.rows import Results, experiment_path, recipe, stale
from flaxcnn.studies.candidates import Proposals, of_catalog

PROTOCOLS = {"honest": ("honest",), "document": ("document",), "both": ("document", "honest")}
TRAIN_ROWS = {"digits": 1_437, "mnist": 60_000, "fashion_mnist": 60_000, "cifar10": 50_000}
FOLDS = 5  # of a grid whose document does not say
STACK_FROM = 4  # seeds: fewer are trained one after the other, each with checkpoints of its own
STACK_SIZE = 8  # seeds side by side; a kill loses at most as many
STACK_WORK = 3e12  # multiply-adds of a run: longer ones do not gain by stacking on a CPU
NEAREST = 5  # rows that an estimate is the median of
LIKE = 10.0  # times smaller or larger in multiply-adds per image: beyond, no estimate


@dataclass(frozen=True)
class Task:
    """A training of one seed, a stack of several, or a grid search."""

    experiment: Experiment
    protocol: str
    seeds: tuple[int, ...]
    work: float  # multiply-adds of all of it
    per_image: float  # multiply-adds

    @property
    def kind(self) -> str:
        """`train` goes on from a checkpoint; `study` and `search` from the runs that have ended."""
        if self.experiment.candidates:
            return "search"
        return "train" if len(self.seeds) == 1 else "study"

    @property
    def label(self) -> str:
        """`mnist-ladder/model10, document protocol, seed 0`."""
        which = {"search": "search", "train": "seed", "study": "seeds"}[self.kind]
        numbers = "" if self.kind == "search" else f" {_seeds_text(self.seeds)}"
        return f"{self.experiment.name}, {self.protocol} protocol, {which}{numbers}"

    @property
    def folder(self) -> str:
        """Its folder below the work folder; another recipe has another one."""
        if self.kind == "search":
            configs = [config.to_dict() for _, config in candidates(self.experiment)[0]]
            text = json.dumps(configs, sort_keys=True)
            digest = hashlib.sha256(text.encode()).hexdigest()
            name = f"{self.protocol}-search"
        else:
            digest = recipe(self.experiment.name, self.protocol, self.seeds[0]).fingerprint()
            name = f"{self.protocol}-seed{_seeds_text(self.seeds)}"
        return f"{experiment_path(self.experiment.name)}/{name}-{digest[:8]}"


def _seeds_text(seeds: Sequence[int]) -> str:
    """`0`, `1-7` or `3,5,8`."""
    if len(seeds) > 1 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]}-{seeds[-1]}"
    return ",".join(map(str, seeds))


def candidates(experiment: Experiment) -> tuple[Proposals, str | None]:
    """The recipes of a grid, the hand-made one among them, and that one's label."""
    return of_catalog(experiment, lambda experiment_: catalog.resolve(experiment_, environ={})[0])


def chosen(names: Sequence[str], everything: bool) -> list[Experiment]:
    """The experiments with these names, in the order of the catalog.

    Args:
        names: names of experiments, names of documents (`mnist-ladder`) or `best` for all
            champions, or FILE.py:NAME.
        everything: all that a document describes.

    Raises:
        ConfigError: none are named, a name is unknown, or one cannot be run.
    """
    known = catalog.experiments() | catalog.champions()
    if not names and not everything:
        raise ConfigError("experiments run: which ones? Give names, a document's name such as "
                          "mnist-ladder, or --all")  # fmt: skip
    chosen_ = {name: e for name, e in known.items() if everything and e.document}
    documents = {name.partition("/")[0] for name in known}
    for name in names:
        if name in documents:
            chosen_ |= {n: e for n, e in known.items() if n.startswith(f"{name}/")}
            continue
        if "/" not in name and ":" not in name:
            tails = {n.partition("/")[2] for n in known}
            if name not in tails:
                raise ConfigError(
                    f"experiment: got {name!r}, which is neither an experiment nor a document"
                    f"{near_miss(name, [*known, *documents])}"
                )
        # Under the name that it is chosen_ by again, also where it comes from a file
        experiment = replace(catalog.find(name), name=name)
        if experiment.kind == "mention":
            raise ConfigError(f"{name} cannot be run: {experiment.refusal}")
        chosen_[name] = experiment
    order = {name: number for number, name in enumerate(known)}
    ready = [e for e in chosen_.values() if e.kind != "mention"]
    return sorted(ready, key=lambda e: order.get(e.name, len(order)))


def tasks(
    experiments: Iterable[Experiment], protocols: Sequence[str], seeds: Sequence[int],
    results: Results, stack_work: float = STACK_WORK,
) -> tuple[list[Task], int]:  # fmt: skip
    """What is not in the results yet, cheapest first; and how many trainings and searches are.

    Args:
        experiments: to run.
        protocols: of `honest` and `document`; experiments without a recipe for one skip it.
        seeds: of each training; a search has the first.
        results: rows that are there; stale ones are made again.
        stack_work: largest training, in multiply-adds, whose seeds are trained side by side.
    """
    there = {(r["experiment"], r["protocol"], r["seed"]) for r in results.rows() if not stale(r)}
    todo, done = [], 0
    for experiment in experiments:
        for protocol in protocols:
            if experiment.candidates:
                if results.has_search(experiment.name, protocol):
                    done += 1
                else:
                    todo.append(_search_task(experiment, protocol, seeds[0]))
                continue
            if protocol == "document" and not experiment.documented:
                continue
            config = recipe(experiment.name, protocol, seeds[0])
            left = [s for s in seeds if (experiment.name, protocol, s) not in there]
            done += len(seeds) - len(left)
            per_image, work = _cost(config)
            for part in stacks(left, work <= stack_work):
                todo.append(Task(experiment, protocol, part, work * len(part), per_image))
    todo.sort(key=lambda task: (task.work, task.experiment.name, task.protocol, task.seeds))
    return todo, done


def _cost(config: Config) -> tuple[float, float]:
    """Multiply-adds of an image, and of a training; infinite if the data is missing.

    Such a task comes last, and its failure does not stop the others.
    """
    try:
        per_image = multiply_adds(config)
        return per_image, per_image * images(config)
    except DataError:
        return math.inf, math.inf


def stacks(seeds: Sequence[int], side_by_side: bool) -> list[tuple[int, ...]]:
    """Seeds in parts that are trained as one task."""
    size = STACK_SIZE if side_by_side and len(seeds) >= STACK_FROM else 1
    return [tuple(seeds[i : i + size]) for i in range(0, len(seeds), size)]


def _search_task(experiment: Experiment, protocol: str, seed: int) -> Task:
    """A shorter training that is the beginning of a longer one costs nothing."""
    configs = [config for _, config in candidates(experiment)[0]]
    longest: dict[str, Config] = {}
    for config in configs:
        own = replace(config, epochs=1).fingerprint()
        if own not in longest or longest[own].epochs < config.epochs:
            longest[own] = config
    folds = experiment.reported.get("folds", FOLDS)
    parts = [multiply_adds(c) * images(c) * (folds - 1) for c in longest.values()]
    refit = max(multiply_adds(c) * images(c) for c in longest.values())
    sizes = sorted(multiply_adds(c) for c in longest.values())
    return Task(experiment, protocol, (seed,), sum(parts) + refit, sizes[len(sizes) // 2])


def multiply_adds(config: Config) -> float:
    """Of one image on its way forward."""
    if facts := KNOWN_DATA.get(config.dataset):
        return float(totals(config.table(*facts))["macs"])
    from flaxcnn.data.datasets import load_for

    data = load_for(config)
    return float(totals(config.table(data.shape, data.num_classes))["macs"])


def images(config: Config) -> int:
    """Images that a training sees: rows times epochs, before rows are held out."""
    match config.split:
        case Permuted(rows=rows, test=test, validation=validation):
            rows = rows - test - validation
        case Ranges(train=rows):
            pass
        case Archive() if config.dataset in TRAIN_ROWS:
            rows = TRAIN_ROWS[config.dataset]
        case _:
            from flaxcnn.data.datasets import load_for

            rows = len(load_for(config).train)
    return rows * config.epochs


# -- estimates -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pace:
    """How fast trainings went: (multiply-adds of an image, multiply-adds a second) of each row."""

    known: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Pace:
        """From the complete rows of results; those made on another kind of device do not mix."""
        complete = [row for row in rows if row["status"] == "complete" and not stale(row)]
        if not complete:
            return cls(())
        device = complete[-1]["environment"]["processor"], complete[-1]["environment"]["device"]
        costs = []
        for row in complete:
            if (row["environment"]["processor"], row["environment"]["device"]) != device:
                continue
            config = recipe(row["experiment"], row["protocol"], row["seed"])
            each = multiply_adds(config)
            seconds = row["seconds"] + row["compile_seconds"]
            costs.append((each, each * row["train_rows"] * row["epochs_run"] / seconds))
        return cls(tuple(costs))

    def seconds(self, task: Task) -> float | None:
        """What a task takes; None before a network of a like size has been trained.

        A network of one filter spends its time on other things than multiplying: what is more than
        `LIKE` times smaller or larger is no guide.
        """
        here = math.log(task.per_image)
        away = [(abs(math.log(size) - here), speed) for size, speed in self.known]
        nearest = sorted(each for each in away if each[0] <= math.log(LIKE))[:NEAREST]
        if not nearest:
            return None
        speeds = sorted(speed for _, speed in nearest)
        return task.work / speeds[len(speeds) // 2]

    def text(self, todo: Sequence[Task]) -> str:
        """`about 3.4 h`, and of how many that is not known yet."""
        if not todo:
            return "nothing is left"
        times = [self.seconds(task) for task in todo]
        known = [t for t in times if t is not None]
        if not known:
            return "how long that takes is not known yet"
        if len(known) == len(times):
            return duration(sum(known))
        return (f"{duration(sum(known))} for {len(known)} of them; how long the others take is "
                "not known yet")  # fmt: skip


def duration(seconds: float) -> str:
    """`about 3.4 h`, `about 12 min`, `about 40 s`."""
    if seconds >= 3600:
        return f"about {seconds / 3600:.1f} h"
    return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {seconds:.0f} s"
