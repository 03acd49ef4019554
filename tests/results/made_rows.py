"""Rows as finished trainings leave them, made up in no time."""

import json

import numpy as np

from flaxcnn.results.rows import diverged_row, make_row, recipe

ENVIRONMENT = {"source_revision": "0123abc", "processor": "p", "device": "cpu", "cpus": 2}
TEST_ROWS = 10_000


def row(name, protocol="document", seed=0, accuracy=0.99, *, dead=False, seconds=10.0, **more):
    """Of an experiment of the catalog."""
    config = recipe(name, protocol, seed)
    label = np.arange(TEST_ROWS) % 10
    predicted = label.copy()
    wrong = np.linspace(0, TEST_ROWS - 1, round((1 - accuracy) * TEST_ROWS)).astype(int)
    predicted[wrong] = (label[wrong] + 1) % 10
    summary = {
        "experiment": name, "protocol": protocol, "seed": seed,
        "fingerprint": config.fingerprint(), "params": 1000, "trainable_params": 1000,
        "train_rows": 60_000, "val_rows": TEST_ROWS, "test_rows": TEST_ROWS, "epochs_run": 2,
        "best_epoch": 2, "kept_epoch": 2, "stopped_early": False, "test_accuracy": accuracy,
        "test_loss": 0.1, "val_accuracy": accuracy, "val_loss": 0.1, "train_accuracy": 1.0,
        "train_loss": 0.0, "seconds": seconds, "compile_seconds": 0.0,
        "images_per_second": 120_000 / seconds, "dead_units": int(dead),
        "dead_layers": ["conv2d"] if dead else [], "relu_units": 1, "params_digest": "d",
        "data_digest": "d", "split_digest": "s", "versions": {"jax": "0.10.1"}, **more,
    }  # fmt: skip
    history = [
        {"epoch": e, "train_loss": 0.2, "train_accuracy": 0.9, "val_loss": 0.2,
         "val_accuracy": value, "seconds": seconds / 2}
        for e, value in ((1, accuracy + 0.001), (2, accuracy))
    ]  # fmt: skip
    return make_row(summary, history, config.to_dict(), ENVIRONMENT, label, predicted, 10)


def diverged(name, protocol="document", seed=0):
    config = recipe(name, protocol, seed)
    summary = {"experiment": name, "protocol": protocol, "seed": seed, "epochs_run": 1,
               "fingerprint": config.fingerprint()}  # fmt: skip
    return diverged_row(summary, config.to_dict(), ENVIRONMENT, "epoch 1: nan", [])


def stale(made):
    """The same row with another recipe's fingerprint."""
    return {**made, "fingerprint": "0" * 16}


def search(folder, found):
    """The records of a search that a table needs; `found` is search.json."""
    folder.mkdir(parents=True)
    plan = {"experiment": "", "candidates": [], "folds": 5, "repeats": 1, "seeds": [0],
            "document": False}  # fmt: skip
    found = {**plan, "incumbent": None, "dropped": [], "protocol": "honest", **found}
    for name, value in (("search", found), ("env", ENVIRONMENT), ("plan", plan)):
        (folder / f"{name}.json").write_text(json.dumps(value))
