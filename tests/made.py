"""Records of runs and studies as training leaves them, made up in milliseconds."""

import json
from functools import cache

import numpy as np

from flaxcnn.data.datasets import load
from flaxcnn.data.splits import choose, to_json
from flaxcnn.recipe import catalog
from flaxcnn.recipe.data import KNOWN_DATA
from flaxcnn.recipe.layers import totals
from flaxcnn.studies import ranking
from flaxcnn.studies.plan import plan_runs
from flaxcnn.studies.summary import aggregate

NAME = "digits/quickstart"
ENVIRONMENT = {
    "versions": {"python": "3.11.0", "jax": "0.10.1"}, "source_revision": "0123abc",
    "device": "cpu", "devices": 1,
}  # fmt: skip
digits = cache(lambda: load("digits"))


def recipe(*assignments, name=NAME):
    return catalog.resolve(catalog.find(name), assignments=assignments, environ={})[0]


def history(epochs=6, best=4, lift=0.0):
    """Epochs whose validation is best at `best`."""
    return [
        {
            "epoch": e, "train_loss": 1.5 / e, "train_accuracy": 1 - 0.4 / e,
            "val_loss": 1.2 / e + 0.01 * abs(e - best),
            "val_accuracy": 0.95 + lift - 0.03 * abs(e - best), "best": e <= best,
            "seconds": 0.2, "images_per_second": 9000.0,
        }
        for e in range(1, epochs + 1)
    ]  # fmt: skip


def summary(config, accuracy, name=NAME, data_digest="", **more):
    params = totals(config.table(*KNOWN_DATA[config.dataset]))["params"]
    return {
        "experiment": name, "protocol": config.protocol, "seed": config.seed, "params": params,
        "trainable_params": params, "epochs_run": 6, "best_epoch": 4, "kept_epoch": 4,
        "stopped_early": False,
        **{f"{s}_{k}": v for s in ("train", "val", "test")
           for k, v in (("loss", 0.1), ("accuracy", accuracy))},
        "train_rows": 1293, "val_rows": 144, "test_rows": 360, "seconds": 1.2,
        "compile_seconds": 3.4, "images_per_second": 9000.0, "dead_units_init": 0,
        "dead_units": 0, "dead_layers": [], "relu_units": 128, "params_digest": "p" * 64,
        "data_digest": data_digest or digits().digest, "split_digest": "s" * 64,
        "fingerprint": config.fingerprint(), "device": "cpu", **more,
    }  # fmt: skip


def logits(label, classes=10, wrong=7, seed=0):
    """Logits that are right except on `wrong` rows, the second and every 50th after it."""
    draws = np.random.default_rng(seed)
    found = draws.normal(0, 0.5, (len(label), classes))
    called = label.copy()
    rows = 1 + 50 * np.arange(wrong)
    called[rows] = (called[rows] + 1) % classes
    found[np.arange(len(label)), called] += 4
    return found.astype(np.float32)


def write(path, name, value):
    (path / name).write_text(value if isinstance(value, str) else json.dumps(value))


def lines(path, name, rows):
    write(path, name, "".join(json.dumps(row) + "\n" for row in rows))


def run(path, *, classes=None, config=None, **more):
    """A run directory of digits; `classes` are other names for them."""
    path.mkdir(parents=True, exist_ok=True)
    config, data = config or recipe("epochs=6"), digits()
    rows = choose(data, config)
    label = data.test.label
    found = logits(label)
    accuracy = float((found.argmax(axis=1) == label).mean())
    np.savez_compressed(path / "predictions.npz", row=rows.test, label=label, logits=found)
    kernel = np.random.default_rng(1).normal(0, 0.1, (3, 3, 1, 32)).astype(np.float32)
    np.savez_compressed(path / "filters.npz", layer="conv2d", kernel=kernel)
    write(path, "config.json", config.to_dict())
    write(path, "summary.json", summary(config, accuracy, **more))
    write(path, "data.json", {
        "name": "digits", "digest": data.digest, "shape": list(data.shape),
        "classes": list(classes or data.classes), "test_origin": "held out",
        "rows": {"train": 1293, "validation": 144, "test": 360},
    })  # fmt: skip
    write(path, "env.json", ENVIRONMENT)
    write(path, "status.json", {"status": "complete"})
    write(path, "split.json", to_json(rows))
    lines(path, "metrics.jsonl", history())
    return path


def study(path, seeds=8, grid=None, diverged=(), epochs=6):
    """A study directory of digits."""
    path.mkdir(parents=True, exist_ok=True)
    config, draws = recipe(f"epochs={epochs}"), np.random.default_rng(0)
    planned = plan_runs(config, range(seeds), grid)
    rows, told = [], []
    for one in planned:
        identity = {"run": one.key, "setting": dict(one.setting), "vary": one.vary,
                    "seed": one.seed}  # fmt: skip
        if one.seed in diverged:
            rows.append({**identity, "status": "diverged", "experiment": NAME,
                         "reason": "epoch 2: train_loss is nan; lower learning_rate",
                         "protocol": "honest", "epochs_run": 2, "fingerprint": "f",
                         "data_digest": digits().digest, "split_digest": "s" * 64})  # fmt: skip
            continue
        accuracy = float(0.97 + draws.integers(0, 8) / 360)
        rows.append({**summary(one.config, accuracy), **identity, "status": "complete"})
        told += [{"run": one.key, **row} for row in history(epochs, lift=accuracy - 0.97)]
    write(path, "plan.json", {
        "experiment": NAME, "config": config.to_dict(), "seeds": list(range(seeds)),
        "grid": grid or {}, "vary": [], "how": "auto",
    })  # fmt: skip
    write(path, "env.json", ENVIRONMENT)
    lines(path, "runs.jsonl", rows)
    lines(path, "epochs.jsonl", told)
    write(path, "study.json", {"experiment": NAME, **aggregate(rows, planned)})
    return path


SETTINGS = [{"learning_rate": rate, "epochs": e} for rate in (0.1, 0.01) for e in (5, 10)]


def search(path):
    """What a search leaves behind: five candidates on four folds, one of which diverged."""
    path.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    found = [ranking.Scored("unchanged", {}, 1000)]
    found += [ranking.Scored(f"a <b> {i}", one, 1000 + i) for i, one in enumerate(SETTINGS)]
    for number, one in enumerate(found[:-1]):
        one.scores = {(0, k): [0.9 + 0.01 * number + 0.001 * random.normal()] for k in range(4)}
        one.seconds = [1.0]
    found[-1].diverged = 4
    config = catalog.experiments()["digits/quickstart"].config.to_dict()
    plan = {
        "experiment": "digits/quickstart", "folds": 4, "repeats": 1, "seeds": [0],
        "document": False, "max_params": 8,
        "candidates": [{"label": one.label, "settings": dict(one.settings), "params": one.params,
                        "config": config} for one in found],
        "dropped": [{"label": "wide=<i>", "reason": "9 parameters; allowed are 8"}],
    }  # fmt: skip
    summary = {
        **plan, "protocol": "honest", "planned": 20, "trained": 10,
        **ranking.rank(found, "unchanged", 1 / 3), "refit": {"test_accuracy": 0.9321},
    }  # fmt: skip
    env = {"versions": {}, "device": "cpu", "source_revision": "abc"}
    for name, value in (("plan", plan), ("search", summary), ("env", env)):
        (path / f"{name}.json").write_text(json.dumps(value))
    return path
