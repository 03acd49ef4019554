"""The benchmark of augmentation knows every kind, and its table has a row for each."""

import json

from benchmarks import augment, tables


def test_every_kind_is_measured():
    kinds = augment.every_kind()
    assert set(augment.PEERS) < set(kinds)
    assert {"flip", "mixup", "augmix", "elastic"} < set(kinds)


def test_table():
    document = {
        "model": "a/b", "repeats": 3, "steps": 2, "batch": 8, "load": 1.0,
        "source_revision": "abc", "environment": {"processor": "P", "cores": 2},
        "kinds": {
            "flip": {"share": 0.25, "images_per_second": {"flaxcnn": 1000.0, "keras": 10.0}},
            "hue": {"share": -0.01, "images_per_second": {"flaxcnn": 2000.0}},
        },
    }  # fmt: skip
    lines = tables.augmentation(json.loads(json.dumps(document))).splitlines()
    assert lines[2] == "| `flip` | 25.0% | 1,000 |  | 10 |"
    assert lines[3] == "| `hue` | 0.0% | 2,000 |  |  |"
