"""Each reader against files that were changed at random: what was meant, or one sentence.

SOAK=10000 sets the number of inputs a reader (`make soak`); the same few are tried in CI.
"""

import contextlib
import copy
import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import made
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from flaxcnn.data import decode, sources, tables
from flaxcnn.errors import FlaxcnnError
from flaxcnn.recipe import catalog
from flaxcnn.recipe.codec import parse_text, set_at
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.settings import from_file
from flaxcnn.records import digests, lease
from flaxcnn.records.checked import checked_arrays
from flaxcnn.records.read import read

QUICK = 30  # inputs a reader
CODES = (2, 3, 5)  # recipe, data, record
SOAK = os.environ.get("SOAK")
FUZZ = settings(
    max_examples=int(SOAK or QUICK), deadline=None, derandomize=SOAK is None,
    suppress_health_check=[*HealthCheck], database=None,
)  # fmt: skip

WORDS = st.sampled_from(
    ["", "type", "adam", "=cmd", "../../etc", "\0", "\x1b[2J", "<script>", "9" * 400, "a" * 10_000]
)
NUMBERS = st.one_of(
    st.integers(), st.floats(), st.sampled_from([10**400, -1, 2**63, 1e308, float("nan")])
)
PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(WORDS | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)


@contextlib.contextmanager
def spoken():
    """An error is one sentence for a person, with a code that says what is wrong."""
    error = None
    try:
        yield
    except FlaxcnnError as raised:
        error = raised
    if error is not None:
        assert error.exit_code in CODES, repr(error)
        assert "\n" not in str(error)
        assert len(str(error)) < 5000


@st.composite
def changed_bytes(draw, whole):
    """The bytes with some replaced, removed, doubled or added, or cut short."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.sampled_from(["bit", "set", "cut", "add", "twice", "zero"])):
            case "bit" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "set" if data:
                data[at] = draw(st.integers(0, 255))
            case "cut":
                del data[at : at + draw(st.integers(1, len(data) + 1))]
            case "add":
                data[at:at] = draw(st.binary(max_size=16))
            case "twice":
                data[at:at] = data[at : at + 64]
            case "zero":
                data[at : at + 32] = bytes(len(data[at : at + 32]))
    return bytes(data)


@st.composite
def changed_value(draw, whole):
    """The JSON value with one part replaced, removed or renamed."""
    value = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        inner = value
        while True:
            keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(inner[key], dict | list) and inner[key] and draw(st.booleans()):
                inner = inner[key]
                continue
            match draw(st.sampled_from(["replace", "remove", "rename"])):
                case "replace":
                    inner[key] = draw(PLAIN)
                case "remove":
                    del inner[key]
                case "rename" if isinstance(inner, dict):
                    inner[draw(WORDS)] = inner.pop(key)
            break
    return value


RECIPES = [
    catalog.find(name).config.to_dict()
    for name in ("digits/quickstart", "cifar-tuning/model1", "mnist-ladder/model10")
]


@FUZZ
@given(st.data())
def test_recipes(data):
    plain = data.draw(changed_value(data.draw(st.sampled_from(RECIPES))))
    with spoken():
        config = Config.from_dict(plain)
        assert Config.from_dict(config.to_dict()) == config


@FUZZ
@given(
    st.lists(st.sampled_from(["layers", "0", "1", "augment", "epochs", "optimizer", "type", "x"])
             | st.text(max_size=4), min_size=1, max_size=5),
    st.text(max_size=12) | PLAIN.map(repr),
)  # fmt: skip
def test_assignments(path, text):
    plain = copy.deepcopy(RECIPES[0])
    with spoken():
        set_at(plain, ".".join(path), parse_text(text))
        Config.from_dict(plain)


TOML = b'epochs = 3\nlearning_rate = 0.1\n[optimizer]\ntype = "sgd"\nmomentum = 0.9\n'
JSON = json.dumps({"epochs": 3, "layers": RECIPES[0]["layers"]}).encode()


@FUZZ
@given(changed_bytes(TOML) | st.binary(max_size=200), changed_bytes(JSON) | st.binary(max_size=200))
def test_config_files(toml, text):
    for name, content in (("c.toml", toml), ("c.json", text)):
        Path(name).write_bytes(content)
        with spoken():
            from_file(Path(name))


def archive():
    file = io.BytesIO()
    draws = np.random.default_rng(0)
    label = np.arange(40) % 4
    np.savez_compressed(file, image=draws.integers(0, 255, (40, 3, 3), np.uint8), label=label)
    return file.getvalue()


@FUZZ
@given(changed_bytes(archive()) | st.binary(max_size=300))
def test_npz(content):
    Path("d.npz").write_bytes(content)
    with spoken():
        sources.npz(Path("d.npz"))


def picture(form):
    file = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(file, form)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of odd metadata
@FUZZ
@given(st.data())
def test_pictures(data):
    form = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP"]))
    name = f"p.{form.lower()}"
    Path(name).write_bytes(data.draw(changed_bytes(picture(form)) | st.binary(max_size=100)))
    with spoken(), decode.no_bombs():
        pixels = decode.decode("folder:x", name, name)
        assert pixels.dtype == np.uint8


@FUZZ
@given(changed_bytes(b"path,label,split\na.png,x,train\nb.png,y,test\n") | st.binary(max_size=99))
def test_tables(content):
    Path("t.csv").write_bytes(content)
    with spoken():
        tables.csv_file(Path("t.csv"))


def test_archives(home):
    from flaxcnn.data.builders import read_idx, read_tar  # takes a second to import

    label = gzip.compress(b"\0\0\x08\x01\0\0\0\x05" + bytes(range(5)), mtime=0)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        member = tarfile.TarInfo("cifar/data.bin")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))

    @FUZZ
    @given(changed_bytes(label), changed_bytes(packed.getvalue()))
    def both(one, other):
        Path("l.gz").write_bytes(one)
        Path("t.tar.gz").write_bytes(other)
        with spoken():
            read_idx(Path("l.gz"))
        with spoken():
            read_tar(Path("t.tar.gz"), {"data.bin"})

    both()


@FUZZ
@given(st.data())
def test_locks_digests_and_journals(data):
    pytest.importorskip("optuna")
    from flaxcnn.studies.samplers import _mend_journal

    Path(lease.NAME).write_bytes(data.draw(st.binary(max_size=99)))
    assert isinstance(lease._read(Path(lease.NAME)), dict)
    lease._alive(lease._read(Path(lease.NAME)))
    whole = json.dumps({"a.json": {"sha256": "x"}, "b.jsonl": {"sha256": "y", "lines": ["z"]}})
    Path("digests.json").write_bytes(data.draw(changed_bytes(whole.encode())))
    Path("b.jsonl").write_text("{}\n")
    with spoken():
        digests.check(Path(), "b.jsonl")
    Path("optuna.log").write_bytes(data.draw(changed_bytes(b'{"op_code": 0}\n{"op_code": 4}\n')))
    with spoken():
        _mend_journal(Path("optuna.log"))


# -- records ---------------------------------------------------------------------------------------


def show(folder):
    """All that a command reads of a record, and its page."""
    from flaxcnn.reports.report import page_of

    record = read(folder)
    record.to_dict()
    page_of(record)


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["run", "study"])
def test_records(home, kind):
    """Of a stranger: no traceback, and no sentence without a code."""
    folder = home / kind
    folder.mkdir()
    {"run": made.run, "study": made.study}[kind](folder)
    names = sorted(p.name for p in folder.iterdir() if p.suffix in (".json", ".jsonl"))
    whole = {name: (folder / name).read_text() for name in names}

    @FUZZ
    @given(st.data())
    def one(data):
        name = data.draw(st.sampled_from(names))
        rows = [json.loads(line) for line in whole[name].splitlines()] if "jsonl" in name else None
        value = data.draw(changed_value(json.loads(whole[name]) if rows is None else rows))
        text = json.dumps(value) if rows is None else "".join(json.dumps(v) + "\n" for v in value)
        (folder / name).write_text(text)
        try:
            with spoken():
                show(folder)
        finally:
            (folder / name).write_text(whole[name])

    one()


@FUZZ
@given(changed_bytes(archive()))
def test_arrays_of_a_record(content):
    Path("filters.npz").write_bytes(content)
    with spoken():
        checked_arrays(Path("filters.npz"), ("image", "label"))
