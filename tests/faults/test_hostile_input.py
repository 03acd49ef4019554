"""Files and settings made to do harm: one sentence, before memory or time is taken."""

import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from faulty import refused, said

from flaxcnn.data import decode, sources, tables
from flaxcnn.engine.hosts import start_seconds
from flaxcnn.errors import CheckpointError, ConfigError, DataError
from flaxcnn.limits import open_regular, read_bytes, shown, too_deep
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.settings import from_file
from flaxcnn.records.files import read_json, read_lines
from flaxcnn.records.tables import csv_text

DIGITS = "9" * 400


@pytest.fixture
def pipe(home):
    os.mkfifo(home / "pipe")
    return home / "pipe"


def nested(depth):
    layer = {"type": "dense", "units": 3}
    for _ in range(depth):
        layer = {"type": "residual", "layers": [layer]}
    return {"layers": [layer, {"type": "dense", "units": 10}]}


def many(layer, count, key="layers"):
    return {key: [layer] * count}


CONFIGS = {
    "an integer of hundreds of digits": (f'{{"learning_rate": {DIGITS}}}', "finite number"),
    "epochs of hundreds of digits": (f'{{"epochs": {DIGITS}}}', "epochs must be an integer from"),
    "an integer that no decimal conversion takes": (f'{{"epochs": {DIGITS * 13}}}', "."),
    "blocks in blocks": (nested(300), "nested too deeply"),
    "lists in lists": ('{"layers": ' + "[" * 5000 + "]" * 5000 + "}", "nested too deeply"),
    "a key twice": ('{"epochs": 1, "epochs": 2}', "'epochs' is given twice"),
    "a NUL in a path": ({"dataset": "npz:/tmp/\0"}, "null"),
    "units beyond any memory": (
        {"layers": [{"type": "flatten"}, {"type": "dense", "units": 10**299}]}, "units"),
    "more units than there are": (
        {"layers": [{"type": "flatten"}, {"type": "dense", "units": 10**7}]}, "units"),
    "a kernel of a million": (
        {"layers": [{"type": "conv", "filters": 2, "kernel": 10**6}]}, "kernel must be at most"),
    "more parameters than any machine has": (
        {"layers": [{"type": "flatten"}, *[{"type": "dense", "units": 2**20}] * 2,
                    {"type": "dense", "units": 10}]}, "parameters"),
    "thousands of layers": (
        {"layers": [*[{"type": "activation", "function": "relu"}] * 20_000, {"type": "flatten"},
                    {"type": "dense", "units": 10}]}, "4096 layers"),
    "thousands of operations": (many({"type": "flip"}, 20_000, "augment"), "64 operations"),
    "rows that fill the memory": ({"batch_size": 10**12}, "batch_size must be from 1 to"),
    "a billion shards": (
        {"determinism": "exact", "virtual_shards": 10**9}, "virtual_shards must be from 1 to"),
    "a rate that is 0": ({"learning_rate": 1e-46}, "0 in float32"),
    "the type of a recipe": ({"type": "x"}, "unknown setting type"),
    "a megabyte and more": (" " * (2**20 + 1), "larger than the limit"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIGS)
def test_config_files(home, case):
    content, text = CONFIGS[case]
    (home / "c.json").write_text(content if isinstance(content, str) else json.dumps(content))
    code = 3 if case == "a NUL in a path" else 2
    found = refused(code, "train", "--config", "c.json", "--run-dir", "run")
    assert text in found
    assert len(found) < 1000, "it repeats what it was given"
    assert not (home / "run").exists()


def test_assignments(home):
    for word in ("layers." + "0." * 2000 + "x=1", "layers." + "9" * 5000 + ".rate=1",
                 f"learning_rate={DIGITS}", "type=x"):  # fmt: skip
        assert len(refused(2, "train", "-s", word, "--print-config")) < 1000


def test_names_that_no_file_system_can_hold(home):
    for name in ("folder:/", "tfds:", "npz:", "csv:", "hf:"):
        found = refused(3, "data", "verify", name + "a" * 100_000)
        assert len(found) < 1000


def test_what_is_no_regular_file(home, pipe):
    """None is waited for, and none is read until memory is gone."""
    for path in (pipe, Path("/dev/zero"), home):
        kind = "a directory" if path == home else "not a regular file"
        with pytest.raises(OSError, match=kind):
            open_regular(path)
        with pytest.raises(ConfigError, match=kind):
            from_file(path)
        with pytest.raises(DataError, match=kind):
            sources.npz(path)
        with pytest.raises(DataError, match=kind):
            tables.csv_file(path)
        with pytest.raises(CheckpointError, match=kind):
            read_json(path)
        with pytest.raises(CheckpointError, match=kind):
            read_lines(path)
    os.mkfifo(home / "image.png")
    with pytest.raises(DataError, match="not a regular file"):
        decode.decode("folder:x", "image.png", home / "image.png")
    (home / "large").write_bytes(b"x" * 100)
    with pytest.raises(OSError, match="limit of 99 bytes"):
        read_bytes(home / "large", 99)


def test_an_archive_with_a_header_of_brackets(home):
    header = b"(" * 9000
    with zipfile.ZipFile(home / "d.npz", "w") as archive:
        for key in ("image", "label"):
            magic = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header))
            archive.writestr(f"{key}.npy", magic + header)
    assert "its header is no table of NumPy's" in refused(3, "data", "verify", "npz:d.npz")


def test_a_recipe_that_ends_the_process(home):
    (home / "r.py").write_text("raise SystemExit('bye')\n")
    assert "SystemExit: bye" in refused(2, "train", "r.py:a")


def test_a_batch_that_is_dropped_and_was_the_only_one(home):
    text = refused(2, "train", "-s", "drop_last=true", "-s", "batch_size=5000", "--run-dir", "r")
    assert "drop_last=true leaves no batch" in text


@pytest.mark.parametrize("text", ["abc", "0", "-1", "1e3", "9" * 400])
def test_seconds_to_wait_for_other_processes_that_are_none(text, monkeypatch):
    monkeypatch.setenv("FLAXCNN_START_SECONDS", text)
    with pytest.raises(ConfigError, match="FLAXCNN_START_SECONDS must be a whole number"):
        start_seconds()


def test_a_checkpoint_folder_without_a_name(home):
    assert "--checkpoint-dir must name a folder" in refused(
        2, "train", "--checkpoint-dir", "", "--run-dir", "r"
    )


def test_cells_that_a_spreadsheet_would_run():
    """An experiment's file may be called =cmd.py."""
    text = csv_text({"=name": ["=cmd|' /C calc'!A0", "@x", "+1", "a"], "value": [-1.5, -2, 0, 1]})
    assert text.splitlines() == [
        "'=name,value",
        "'=cmd|' /C calc'!A0,-1.5",
        "'@x,-2",
        "'+1,0",
        "a,1",
    ]


def test_a_name_that_would_move_the_cursor(home):
    code, text = said("train", "\x1b[2J\x1b]0;title\x07")
    assert code == 2
    assert text.isprintable()
    assert r"\x1b" in text


def test_depth_and_length_in_messages():
    assert too_deep([[[1]]], most=2)
    assert not too_deep([[1], [2]], most=2)
    assert len(shown("a" * 10**6)) < 120
    assert shown(10**5000) == "a int"
    with pytest.raises(ConfigError, match="levels of tables"):
        Config.from_dict(nested(60))


def test_arrays_of_a_pickle_are_never_read(home):
    np.savez("p.npz", image=np.array([{"a": 1}], object), label=np.zeros(1, np.int32))
    assert "objects (a pickle)" in refused(3, "data", "verify", "npz:p.npz")
