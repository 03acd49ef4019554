"""Keep the records of finished runs, studies and searches, and write experiments/RESULTS.md.

    python benchmarks/results.py RUN|STUDY|SEARCH...   take in these, then write the tables
    python benchmarks/results.py                       write the tables only

One JSON line a run lies in experiments/results/<module>.jsonl: its summary, where and from which
source revision it was made. A run of the same recipe, seed and revision replaces its older line.
Of a study its records lie in experiments/results/studies/<experiment>, fit for `flaxcnn compare`,
of a search in experiments/results/searches/<experiment>, fit for `flaxcnn report`.
"""

import json
import shutil
import sys
from pathlib import Path

from flaxcnn.recipe import catalog
from flaxcnn.studies import ranking
from flaxcnn.studies.compare import Compared, compare
from flaxcnn.studies.contrasts import holm
from flaxcnn.studies.page import figure

FOLDER = catalog.experiments_folder()
RECORDS = FOLDER / "results"
STUDIES, SEARCHES = RECORDS / "studies", RECORDS / "searches"
KEPT_OF_A_STUDY = ("plan.json", "env.json", "study.json", "runs.jsonl")
KEPT_OF_A_SEARCH = ("plan.json", "env.json", "search.json", "runs.jsonl", "candidates.csv")
PAGE = FOLDER / "RESULTS.md"
HEAD = """# Results

Written by `python benchmarks/results.py` from `results/*.jsonl`; do not edit. Test accuracy is that
of the best epoch by held-out validation (honest protocol) unless marked; the document's own figure
often chose its epoch on the test split. One seed each: differences of a few tenths of a point
between rows mean nothing.

"""
STUDIES_HEAD = """
## Studies over seeds

Mean and standard deviation over seeds, with Student's 95 % interval of the mean. A dead network has
a relu layer of which nothing comes; it counts like any other here. Each study is
`flaxcnn study EXPERIMENT --seeds 16 --how map -s determinism=exact`; its records lie in
`results/studies`, and `flaxcnn compare` reads them.

"""
SEARCHES_HEAD = """
## Searches

Accuracy on the folds that a candidate was not trained on: mean and standard deviation over folds,
with the 95 % interval that allows for folds sharing their training rows (Nadeau and Bengio 2003);
p values are corrected (Holm) over the candidates. Seconds are of one training of one fold on a
machine that was not always quiet, so read them as sizes; where candidates differ in epochs, the
shorter ones are read off the longer. "front": no candidate has fewer parameters and a higher score.
Records: `results/searches`.
"""
CLAIMS_HEAD = """
## Do the documents' conclusions hold?

Each document drew them from one run of each model. Here the same seeds make pairs; intervals are
Student's at 95 %, p values are corrected (Holm) over the table. "Networks that learn" leaves out
pairs of which one is dead. A conclusion holds if its sign has p below 0.05.

"""
HIGHER, LOWER = 1, -1
CLAIMS = (  # what is said of the first against the second
    ("mnist-ladder/model1", "mnist-ladder/baseline", LOWER,
     "a pool of 2 costs accuracy: 0.927 to 0.918"),
    ("mnist-ladder/model2", "mnist-ladder/model1", HIGHER,
     "a filter of 3x3 wins some of it back: 0.918 to 0.920"),
    ("mnist-ladder/model2", "mnist-ladder/baseline", LOWER,
     "but not all: 0.920 against 0.927"),
    ("mnist-ladder/model10", "mnist-ladder/baseline", HIGHER,
     "three convolutions are far better: 0.993 against 0.927"),
)  # fmt: skip
LEVEL = 0.05


def record(run: Path) -> dict:
    """What is kept of one finished run."""
    summary = json.loads((run / "summary.json").read_text())
    env = json.loads((run / "env.json").read_text())
    kept = ("source_revision", "platform", "processor", "cpus", "device", "devices", "XLA_FLAGS")
    return {**summary, "environment": {key: env.get(key) for key in kept}}


def take_in(runs: list[Path]) -> None:
    """Add the records of `runs` to their files."""
    for run in runs:
        if (run / "study.json").is_file():
            keep(run, STUDIES, KEPT_OF_A_STUDY)
            continue
        if (run / "search.json").is_file():
            keep(run, SEARCHES, KEPT_OF_A_SEARCH)
            continue
        row = record(run)
        if row["environment"]["source_revision"] is None:
            raise SystemExit(f"{run}: was not made from a checkout; its source is unknown")
        file = RECORDS / f"{row['experiment'].partition('/')[0].replace('-', '_')}.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        rows = [old for old in rows if _identity(old) != _identity(row)] + [row]
        RECORDS.mkdir(exist_ok=True)
        file.write_text("".join(json.dumps(each, sort_keys=True) + "\n" for each in rows))


def keep(study: Path, folder: Path, names: tuple[str, ...]) -> None:
    """Keep the records of a finished study or search, in the place of an older one."""
    if json.loads((study / "env.json").read_text())["source_revision"] is None:
        raise SystemExit(f"{study}: was not made from a checkout; its source is unknown")
    place = folder / json.loads((study / "plan.json").read_text())["experiment"]
    place.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copyfile(study / name, place / name)


def _identity(row: dict) -> tuple:
    return row["fingerprint"], row["environment"]["source_revision"]


def page() -> str:
    """RESULTS.md, in the order of the catalog."""
    rows = [json.loads(line) for file in RECORDS.glob("*.jsonl")
            for line in file.read_text().splitlines()]  # fmt: skip
    order = {name: number for number, name in enumerate(catalog.experiments())}
    rows.sort(key=lambda row: (order[row["experiment"]], row["protocol"], row["seed"]))
    lines = [
        "| experiment | seed | test accuracy | document | validation | training | epoch kept | "
        "CPU cores, device | revision |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        reported = catalog.find(row["experiment"]).reported.get("test_accuracy")
        env = row["environment"]
        mark = "" if row["protocol"] == "honest" else " (document protocol)"
        lines.append(
            f"| {row['experiment']}{mark} | {row['seed']} | {row['test_accuracy']:.4f} "
            f"| {'-' if reported is None else f'{reported:.4f}'} | {row['val_accuracy']:.4f} "
            f"| {row['train_accuracy']:.4f} | {row['kept_epoch']} of {row['epochs_run']} "
            f"| {env['cpus']}, {env['device']} "
            f"| {env['source_revision'][:9]} |"
        )
    return HEAD + "\n".join(lines) + "\n" + studies() + claims() + searches()


def studies() -> str:
    """The table of studies, in the order of the catalog."""
    lines = [
        "| experiment | seeds | test accuracy | lowest | highest | dead | document | CPU cores, "
        "device | revision |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, experiment in catalog.experiments().items():
        if not (STUDIES / name).is_dir():
            continue
        setting = json.loads((STUDIES / name / "study.json").read_text())["settings"][0]
        env = json.loads((STUDIES / name / "env.json").read_text())
        found, reported = setting["metrics"]["test_accuracy"], experiment.reported
        lines.append(
            f"| {name} | {found['n']} | {figure(found)} | {found['min']:.4f} | {found['max']:.4f} "
            f"| {len(setting['dead'])} | {reported.get('test_accuracy', '-')} "
            f"| {env['cpus']}, {env['device']} | {env['source_revision'][:9]} |"
        )
    return STUDIES_HEAD + "\n".join(lines) + "\n"


def searches() -> str:
    """A table a search, in the order of the catalog."""
    text = ""
    for name, experiment in catalog.experiments().items():
        if not (SEARCHES / name).is_dir():
            continue
        summary, plan, env = (
            json.loads((SEARCHES / name / f"{file}.json").read_text())
            for file in ("search", "plan", "env")
        )
        header, *rows = ranking.lines(summary)
        lines = [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]
        refit = summary["refit"]
        text += (
            f"\n### {name}\n\n{summary['folds']} folds, {summary['repeats']} repeats, "
            f"{len(summary['seeds'])} seeds; {summary['trained']} trainings for "
            f"{summary['planned']} runs.{_changed(experiment, plan)} {env['cpus']} CPU cores, "
            f"{env['device']}; source {env['source_revision'][:9]}.\n\n" + "\n".join(lines)
            + f"\n\nThe winner, {summary['winner']}, trained on the whole training split: test "
            f"accuracy {refit['test_accuracy']:.4f} on {refit['test_rows']} rows.\n"
        )  # fmt: skip
    return SEARCHES_HEAD + text if text else ""


def _changed(experiment: catalog.Experiment, plan: dict) -> str:
    """What was laid over the candidates, such as fewer epochs."""
    known = {json.dumps(dict(point.settings)): point.config for point in experiment.candidates}
    first = next(one for one in plan["candidates"] if json.dumps(one["settings"]) in known)
    own = json.loads(json.dumps(known[json.dumps(first["settings"])].to_dict()))
    differ = [f"`{key}={json.dumps(value)}` instead of `{json.dumps(own[key])}`"
              for key, value in first["config"].items() if value != own[key]]  # fmt: skip
    return f" With {', '.join(differ)}." if differ else ""


def claims() -> str:
    """The table of conclusions, each for all networks and for those that learn."""
    every, living = ([_compared(own, other, alive) for own, other, _, _ in CLAIMS]
                     for alive in (False, True))  # fmt: skip
    lines = ["| the document says | all networks | networks that learn | does it hold? |",
             "|---|---|---|---|"]  # fmt: skip
    rows = zip(CLAIMS, every, _corrected(every), living, _corrected(living), strict=True)
    for (own, other, sign, text), all_, p_all, alive, p_alive in rows:
        holds = [sign * each.verdict.comparison.difference > 0 and p < LEVEL
                 for each, p in ((all_, p_all), (alive, p_alive))]  # fmt: skip
        words = {(True, True): "yes", (False, True): "only of networks that learn",
                 (True, False): "only with the dead ones", (False, False): "not shown"}  # fmt: skip
        lines.append(
            f"| {own} against {other}: {text} | {_difference(all_, p_all)} "
            f"| {_difference(alive, p_alive)} | {words[holds[0], holds[1]]} |"
        )
    return CLAIMS_HEAD + "\n".join(lines) + "\n"


def _compared(own: str, other: str, alive: bool) -> Compared:
    _, found, _ = compare([STUDIES / other, STUDIES / own], paired=True, alive=alive)
    return found[0]


def _corrected(found: list[Compared]) -> list[float]:
    return holm([1.0 if one.verdict.p_value is None else one.verdict.p_value for one in found])


def _difference(found: Compared, p: float) -> str:
    test = found.verdict.comparison
    low, high = test.interval or (float("nan"), float("nan"))
    return (f"{test.difference:+.4f} [{low:+.4f}, {high:+.4f}], {test.n_a} pairs, "
            f"p {'< 0.0001' if p < 0.0001 else f'= {p:.2g}'}")  # fmt: skip


if __name__ == "__main__":
    take_in([Path(argument) for argument in sys.argv[1:]])
    PAGE.write_text(page())
    print(PAGE)
