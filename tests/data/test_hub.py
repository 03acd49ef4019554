"""hf: tables of Hugging Face's datasets, saved here and read back without a network."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image as Picture

from flaxcnn.data import datasets, hub, splits
from flaxcnn.errors import DataError
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Dense, Flatten
from flaxcnn.recipe.resize import Resize

hf = pytest.importorskip("datasets")
CLASSES = ["owl", "cat", "dog"]  # in no order of the alphabet
RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (30, 6, 5, 3), np.uint8)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(hf.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    bars = hf.utils.logging.is_progress_bar_enabled()
    hf.disable_progress_bars()
    yield
    if bars:
        hf.enable_progress_bars()


def table(rows, label=None, **columns):
    """A table of the pictures `rows`, whose class is their number modulo three."""
    label = label or hf.ClassLabel(names=CLASSES)
    names = isinstance(label, hf.Value) and label.dtype == "string"
    cells = {
        "img": [Picture.fromarray(PIXELS[i]) for i in rows],
        "label": [CLASSES[i % 3] if names else i % 3 for i in rows],
        **{name: [i % 2 for i in rows] for name in columns},
    }
    features = hf.Features({"img": hf.Image(), "label": label, **columns})
    return hf.Dataset.from_dict(cells, features=features)


def saved(folder, **tables):
    hf.DatasetDict(tables).save_to_disk(str(folder))
    return f"hf:{folder}"


def test_saved_tables_are_read_with_their_splits_and_classes(tmp_path):
    name = saved(tmp_path / "set", train=table(range(18)), test=table(range(18, 24)),
                 validation=table(range(24, 30)))  # fmt: skip
    data = datasets.load(name)
    assert data.classes == tuple(CLASSES)
    np.testing.assert_array_equal(data.train.image, PIXELS[[*range(18), *range(24, 30)]])
    np.testing.assert_array_equal(data.test.image, PIXELS[18:24])
    np.testing.assert_array_equal(data.test.label, np.arange(18, 24) % 3)
    rows = splits.choose(data, Config(name, (Flatten(), Dense(3))))
    np.testing.assert_array_equal(data.train.image[rows.validation], PIXELS[24:])
    assert data.source["library"] == f"datasets {hf.__version__}"
    assert len(data.source["train fingerprint"]) == 16
    again = datasets.load(name)  # decoded the first time
    assert isinstance(again.train.image, np.memmap)
    assert (again.digest, again.validation, again.source) == (data.digest, 6, data.source)
    lazy = datasets.load(name, most=0)
    assert lazy.undecoded
    np.testing.assert_array_equal(lazy.train.image[:], data.train.image)


def test_a_decoded_copy_is_verified_and_made_again(tmp_path):
    name = saved(tmp_path / "set", train=table(range(30)))
    with pytest.raises(DataError, match="is not prepared"):
        datasets.verify(name)
    folder = datasets.prepare(name)
    assert datasets.verify(name)["digest"] == datasets.load(name).digest
    (folder / "train_image.npy").write_bytes(b"damaged")
    refused(name, "train_image.npy is damaged")
    assert datasets.prepare(name) == folder
    assert datasets.verify(name)["ok"]


def test_a_table_alone_has_a_fifth_held_out(tmp_path):
    table(range(30)).save_to_disk(str(tmp_path / "one"))
    for most in (None, 0):
        data = datasets.load(f"hf:{tmp_path}/one", most=most)
        assert data.test_origin == "held out"
        assert (len(data.train), len(data.test)) == (24, 6)


@pytest.mark.parametrize("kind", ["parquet", "images"])
def test_folders_that_the_library_reads(tmp_path, kind):
    root = tmp_path / "set"
    for split, rows in (("train", range(18)), ("test", range(18, 30))):
        if kind == "parquet":
            root.mkdir(exist_ok=True)
            table(rows).to_parquet(str(root / f"{split}-00000-of-00001.parquet"))
        else:
            for i in rows:
                (root / split / CLASSES[i % 3]).mkdir(parents=True, exist_ok=True)
                Picture.fromarray(PIXELS[i]).save(root / split / CLASSES[i % 3] / f"{i:02}.png")
    data = datasets.load(f"hf:{root}")
    assert sorted(data.classes) == sorted(CLASSES)
    assert (len(data.train), len(data.test)) == (18, 12)
    every = {bytes(image): CLASSES[i % 3] for i, image in enumerate(PIXELS)}
    for image, label in zip(data.train.image, data.train.label, strict=True):
        assert every[bytes(image)] == data.classes[label]


@pytest.mark.parametrize(("label", "classes"), [
    (hf.Value("string"), ("cat", "dog", "owl")), (hf.Value("int64"), ("0", "1", "2")),
], ids=["text", "integers"])  # fmt: skip
def test_labels_that_are_no_classes(tmp_path, label, classes):
    data = datasets.load(saved(tmp_path / "set", train=table(range(30), label)))
    assert data.classes == classes


def test_what_is_chosen_after_commas(tmp_path):
    coarse = hf.ClassLabel(names=["even", "odd"])
    name = saved(tmp_path / "set", train=table(range(18), coarse=coarse),
                 dev=table(range(18, 30), coarse=coarse))  # fmt: skip
    refused(name, "one column of labels .got label or coarse.; choose with .*,label=NAME")
    data = datasets.load(f"{name},label=coarse,test=dev")
    assert data.classes == ("even", "odd")
    assert (data.validation, len(data.test)) == (0, 12)
    assert datasets.load(f"{name},label=label").validation == 12
    assert datasets.load(f"{name},label=label,validation=none").validation == 0
    for wrong, message in (
        ("lable=coarse", "must come one of .*did you mean 'label'"),
        ("label", "must come one of"),
        ("label=colour", "no column 'colour' of labels, only img, label or coarse"),
        ("image=label", "no column 'label' of images"),
        ("label=coarse,test=val", "no split 'val', only train or dev"),
        ("label=coarse,revision=abc", "save_to_disk wrote has no revision"),
    ):
        refused(f"{name},{wrong}", message)


def test_grey_among_colour_and_sizes(tmp_path):
    cells = table(range(30)).cast_column("img", hf.Image(decode=False)).to_dict()
    for number, image in ((3, Picture.fromarray(PIXELS[3]).convert("L")), (5, None)):
        cells["img"][number] = image
    features = hf.Features({"img": hf.Image(), "label": hf.ClassLabel(names=CLASSES)})
    cells["img"][5] = Picture.fromarray(np.zeros((9, 9, 3), np.uint8))
    name = saved(tmp_path / "set", train=hf.Dataset.from_dict(cells, features=features))
    refused(name, "train row 5 is 9x9x3 .* the first is 6x5x3; all images must have one size")
    held = datasets.load(name, Resize(4, 4))
    lazy = datasets.load(name, Resize(4, 4), most=0)
    np.testing.assert_array_equal(lazy.train.image[:], held.train.image)
    assert held.shape == (4, 4, 3)
    assert datasets.load(name, Resize(4, 4), channels="grey").shape == (4, 4, 1)


def refused(name, match):
    with pytest.raises(DataError, match=match) as error:
        datasets.load(name)
    assert "\n" not in str(error.value)


def test_what_is_no_data_for_a_classifier(tmp_path):
    refused(f"hf:{tmp_path}/none", "there is no folder")
    refused(saved(tmp_path / "a", dev=table(range(30))), "no split train, only dev; choose with")
    plain = hf.Dataset.from_dict({"x": [1, 2], "label": [0, 1]})
    refused(saved(tmp_path / "b", train=plain), "one column of images .got none among x, label")
    unlabelled = table([0, 1, 2]).map(lambda row: {"label": -1})
    both = saved(tmp_path / "c", train=table(range(18)), test=unlabelled)
    refused(both, "test row 0 has no label; leave the split out or take another, as .*,test=none")
    assert datasets.load(f"{both},test=none").test_origin == "held out"
    refused(saved(tmp_path / "d", train=table([0, 1] * 9)), "rows of all 3 classes .got 2")
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "notes.md").write_text("nothing")
    refused(f"hf:{tmp_path}/e", "cannot be loaded")
    broken = table(range(30)).cast_column("img", hf.Image(decode=False)).to_dict()
    broken["img"][7] = {"bytes": b"no image", "path": None}
    features = hf.Features({"img": hf.Image(), "label": hf.ClassLabel(names=CLASSES)})
    table_of = hf.Dataset.from_dict(broken, features=features)
    refused(saved(tmp_path / "f", train=table_of), "train row 7 cannot be read as PNG")


def test_a_name_is_found_in_the_cache_without_a_network(tmp_path, monkeypatch):
    """What the library keeps of a download: made here of a local one, in the hub's place."""
    for split, rows in (("train", range(18)), ("test", range(18, 30))):
        (tmp_path / "set").mkdir(exist_ok=True)
        table(rows).to_parquet(str(tmp_path / "set" / f"{split}.parquet"))
    hf.load_dataset(str(tmp_path / "set"))
    (made,) = (tmp_path / "hf").glob("*/default*/0.0.0/*/")
    kept = tmp_path / "hf" / "nobody___pets" / "default" / "0.0.0" / made.name
    shutil.copytree(made, kept)
    for file in kept.glob("*.arrow"):
        file.rename(kept / f"pets-{file.name.partition('-')[2]}")
    info = json.loads((kept / "dataset_info.json").read_text())
    (kept / "dataset_info.json").write_text(json.dumps(info | {"dataset_name": "pets"}))
    monkeypatch.setattr(hub, "reachable", lambda url: False)
    data = datasets.load("hf:nobody/pets")
    np.testing.assert_array_equal(data.train.image, PIXELS[:18])
    assert data.source["cached as"] == made.name
    assert len(data.test) == 12


def test_a_hub_that_cannot_be_reached_is_said_at_once(monkeypatch):
    monkeypatch.setattr(hub, "reachable", lambda url: False)
    refused("hf:nobody/nothing", "cannot be loaded .*go online once, or give a folder")
    assert not hf.config.HF_HUB_OFFLINE


def test_without_the_library_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused("hf:mnist", r"pip install 'flaxcnn\[hub\]'")


def test_other_data_does_not_import_the_library():
    code = (
        "import sys, flaxcnn.data.datasets as d; d.load('digits'); print('datasets' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
