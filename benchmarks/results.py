"""Keep the records of finished runs, and write experiments/RESULTS.md from them.

    python benchmarks/results.py RUN...     take in these run directories, then write the tables
    python benchmarks/results.py            write the tables only

One JSON line a run lies in experiments/results/<module>.jsonl: its summary, where and from which
source revision it was made. A run of the same recipe, seed and revision replaces its older line.
"""

import json
import sys
from pathlib import Path

from flaxcnn.recipe import catalog

FOLDER = catalog.experiments_folder()
RECORDS = FOLDER / "results"
PAGE = FOLDER / "RESULTS.md"
HEAD = """# Results

Written by `python benchmarks/results.py` from `results/*.jsonl`; do not edit. Test accuracy is that
of the best epoch by held-out validation (honest protocol) unless marked; the document's own figure
often chose its epoch on the test split. One seed each: differences of a few tenths of a point
between rows mean nothing.

"""


def record(run: Path) -> dict:
    """What is kept of one finished run."""
    summary = json.loads((run / "summary.json").read_text())
    env = json.loads((run / "env.json").read_text())
    kept = ("source_revision", "platform", "processor", "cpus", "device", "devices", "XLA_FLAGS")
    return {**summary, "environment": {key: env.get(key) for key in kept}}


def take_in(runs: list[Path]) -> None:
    """Add the records of `runs` to their files."""
    for run in runs:
        row = record(run)
        if row["environment"]["source_revision"] is None:
            raise SystemExit(f"{run}: was not made from a checkout; its source is unknown")
        file = RECORDS / f"{row['experiment'].partition('/')[0].replace('-', '_')}.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        rows = [old for old in rows if _identity(old) != _identity(row)] + [row]
        RECORDS.mkdir(exist_ok=True)
        file.write_text("".join(json.dumps(each, sort_keys=True) + "\n" for each in rows))


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
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    take_in([Path(argument) for argument in sys.argv[1:]])
    PAGE.write_text(page())
    print(PAGE)
