"""What a person may get wrong: the exit code, one line that says what is allowed, nothing left."""

import re
import socket

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_, **__):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)


def refused(flaxcnn, home, code, says, *arguments):
    """The command fails as promised, in one line, and its folder is as it was."""
    before = listing(home)
    done = flaxcnn(*arguments)
    assert done.code == code, done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert re.search(says, done.err), done.err
    # The rows are chosen after the headline is printed
    assert done.out == "" or re.match(r"recipes/small: \d+ parameters on ", done.out)
    assert done.out.count("\n") <= 1
    assert listing(home) == before


def listing(home):
    return [p for p in sorted(home.rglob("*")) if "__pycache__" not in p.parts]


SETTINGS = {
    "epocs=3": "unknown setting epocs; .*did you mean 'epochs'?",
    "optimizer.momentun=0.9": "unknown setting optimizer.momentun; .*did you mean 'momentum'?",
    "optimizer=adma": "optimizer must be sgd, .*\\(got 'adma'\\); did you mean 'adam'?",
    "optimizer=": "optimizer must be sgd, adam, .*\\(got ''\\)",
    "dataset=mnits": "dataset must be digits, mnist.*\\(got 'mnits'\\); did you mean 'mnist'?",
    "dataset=npz:": "dataset must be .*\\(got 'npz:'\\)",
    "epochs=0": "epochs must be from 1 to 1000000 \\(got 0\\)",
    "epochs=-1": "epochs must be from 1 to 1000000 \\(got -1\\)",
    "epochs=1.5": "epochs must be an integer \\(got 1.5\\)",
    "epochs=true": "epochs must be an integer \\(got True\\)",
    "epochs=many": "epochs must be an integer \\(got 'many'\\)",
    "batch_size=0": "batch_size must be from 1 to 1048576 \\(got 0\\)",
    "workers=-1": "workers must be from 0 to 256 \\(got -1\\)",
    "workers=many": "workers must be an integer or none \\(got 'many'\\)",
    "data_memory=0": "data_memory must be at least 1 \\(got 0\\)",
    "input=strem": "input must be auto, .*\\(got 'strem'\\); did you mean 'stream'?",
    "resize.height=8": "resize.width is missing; resize needs it",
    'resize={"height":0,"width":8}': "resize.height must be from 1 to 4096 \\(got 0\\)",
    'resize={"height":8,"width":8}': "resize: the images of digits have one size already",
    'resize={"height":8,"width":8,"evaluate":"random_crop"}': "resize.evaluate must be stretch "
    "or center_crop \\(got 'random_crop'\\)",
    "learning_rate=-1": "learning_rate must be above 0 \\(got -1.0\\)",
    "learning_rate=0": "learning_rate must be above 0 \\(got 0.0\\)",
    "learning_rate=abc": "learning_rate must be a number or none \\(got 'abc'\\)",
    "learning_rate=nan": "learning_rate must be a number or none",
    "learning_rate=NaN": "learning_rate must be a finite number or none \\(got nan\\)",
    "learning_rate=Infinity": "learning_rate must be a finite number or none \\(got inf\\)",
    "learning_rate=1e999": "learning_rate must be a finite number or none \\(got inf\\)",
    "seed=-1": "seed must be from 0 to 4294967295 \\(got -1\\)",
    "seed=4294967296": "seed must be from 0 to 4294967295 \\(got 4294967296\\)",
    "split_seed=-1": "split_seed must be from 0 to 4294967295",
    "patience=0": "patience must be at least 1 \\(got 0\\)",
    "min_delta=-0.1": "min_delta must be at least 0 \\(got -0.1\\)",
    "save_every=0": "save_every must be at least 1 \\(got 0\\)",
    "label_smoothing=1": "label_smoothing must be at least 0 and below 1 \\(got 1.0\\)",
    "optimizer.momentum=1.5": "momentum must be at least 0 and below 1 \\(got 1.5\\)",
    "precision=float16": "precision must be float32, tensorfloat32 or bfloat16 \\(got 'float16'",
    "monitor=val_acc": "monitor must be .*\\(got 'val_acc'\\); did you mean 'val_accuracy'?",
    "keep=first": "keep must be best or last \\(got 'first'\\)",
    "normalize=no": "normalize must be unit, per_pixel or per_channel \\(got 'no'\\)",
    "validation=test": "needs protocol=document",
    "validation=tset": "\\(got 'tset'\\); did you mean 'test'",
    "validation=0": "validation must be a fraction .*\\(got 0\\)",
    "validation=1.0": "validation must be a fraction .*\\(got 1.0\\)",
    "validation=-5": "validation must be a fraction .*\\(got -5\\)",
    "validation=1430": "validation must hold out 10 to 1427 of the 1437 train rows .*\\(got 1430,",
    "validation=5": "validation must hold out 10 to 1427 .*\\(got 5, which is 5\\)",
    'layers=[{"type":"dropout","rate":1.0}]': "dropout.rate must be at least 0 and below 1",
    'layers=[{"type":"dense","units":9}]': "layer",
    'layers=[{"type":"flaten"}]': "layers.0 must be .*\\(got 'flaten'\\); did you mean 'flatten'?",
    "layers=[]": "layer",
    "layers.9.units=3": "layers.9.units: the index must be from 0 to 1 \\(got '9'\\)",
    "layers.1.units=0": "units must be an integer from 1 to 1048576 \\(got 0\\)",
    "layers.1.units=7": "dense",
    "=3": "-s =3: write it as KEY=VALUE",
    "epochs": "-s epochs: write it as KEY=VALUE, such as -s epochs=3",
    "protocol=document": "protocol=document: recipes/small has no document to follow",
}  # fmt: skip


@pytest.mark.parametrize("assignment", SETTINGS)
def test_settings(flaxcnn, home, assignment):
    refused(flaxcnn, home, 2, SETTINGS[assignment], "train", "recipes.py:small", "-s", assignment)


def test_settings_fail_alike_from_every_source(flaxcnn, home, monkeypatch):
    says = r"epochs must be from 1 to 1000000 \(got 0\)"
    (home / "zero.toml").write_text("epochs = 0")
    refused(flaxcnn, home, 2, says, "train", "recipes.py:small", "--config", "zero.toml")
    monkeypatch.setenv("FLAXCNN_EPOCHS", "0")
    refused(flaxcnn, home, 2, says, "train", "recipes.py:small")


FILES = {
    "missing": ("a.toml", None, "--config a.toml: .*No such file"),
    "directory": (".", None, "--config .: .*directory"),
    "binary": ("a.toml", bytes(range(256)), "--config a.toml: .*codec can't decode"),
    "no toml": ("a.toml", b"epochs = = 3", "--config a.toml: "),
    "no json": ("a.json", b"{epochs: 3}", "--config a.json: "),
    "deep": ("a.json", b"[" * 100_000, "--config a.json: "),
    "a list": ("a.json", b"[3]", "--config a.json: the file must hold a table of settings"),
    "unknown key": ("a.toml", b"epocs = 3", "unknown setting epocs; .*did you mean 'epochs'?"),
    "unknown table": ("a.toml", b"[optimiser]\nmomentum = 0.9", "optimiser.*'optimizer'?"),
    "wrong type": ("a.toml", b'epochs = "3"', "epochs must be an integer \\(got '3'\\)"),
}


@pytest.mark.parametrize("case", FILES)
def test_config_files(flaxcnn, home, case):
    name, content, says = FILES[case]
    if content:
        (home / name).write_bytes(content)
    refused(flaxcnn, home, 2, says, "train", "recipes.py:small", "--config", name)


EXPERIMENTS = {
    "mnist-lader/model10": "did you mean 'mnist-ladder/model10'?",
    "recipes.py:smal": "no recipe 'smal'; it has .*did you mean 'small'?",
    "nowhere.py:small": "experiment: there is no file nowhere.py",
    "broken.py:small": "broken.py, line 1: ZeroDivisionError",
    "../../etc/passwd": "see `flaxcnn experiments list`",
    "": "unknown experiment ''",
    "epochs=3": "a setting is given as -s epochs=3",
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments(flaxcnn, home, name):
    (home / "broken.py").write_text("1 / 0")
    refused(flaxcnn, home, 2, EXPERIMENTS[name], "train", name)


def test_a_model_that_does_not_fit_its_data(flaxcnn, home):
    """The shape of rows in a file is known only when they are read: the layer is named then."""
    np.savez(home / "rows.npz", image=np.zeros((60, 2, 2), np.uint8), label=np.arange(60) % 10)
    (home / "wide.py").write_text(
        "from flaxcnn.recipe.config import Config\n"
        "from flaxcnn.recipe.layers import Conv, Dense, Flatten\n"
        "wide = Config(dataset='npz:rows.npz', layers=(Conv(4, 3), Flatten(), Dense(10)))\n"
    )
    refused(flaxcnn, home, 2, r"conv2d.*3x3.*2x2.*\(data: npz:rows.npz, 2x2x1, 10 classes\)",
            "train", "wide.py:wide")  # fmt: skip


TOOLKIT = """
import optax


def by_class(logits, label):
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


def cropped(key, image, target):
    return image[1:], target
"""
PIECES = {  # assignments, and what is said
    "mixup with a loss of classes": (
        ['augment=["mixup"]', 'loss={"type":"loss","function":"own.py:by_class"}'],
        "loss: own.py:by_class takes the class of a row, .*mixed images make distributions",
    ),
    "another shape": (
        ['augment=[{"type":"augmentation","function":"own.py:cropped"}]'],
        r"own.py:cropped must return image as float32 \[8, 8, 1\] \(got float32 \[7, 8, 1\]",
    ),
    "a policy larger than the image": (
        ['augment=[{"type":"policy","of":["flip",{"type":"cutout","size":9}]}]'],
        r"augment: cutout: size=9 must be at most 8 \(the images are 8x8x1\)",
    ),
    "an average that never moves": (
        ['average={"type":"ema","decay":1}'],
        r"average.decay must be above 0 and below 1 \(got 1.0\)",
    ),
    "views of images that are not square": (
        ["dataset=npz:rows.npz", "tta.transpose=true"],
        r"tta.transpose exchanges rows and columns and needs square images \(these are 8x6\)",
    ),
    "a share of no rows": (["tta.share=0"], "tta.share must be above 0 and at most 1 .*got 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", PIECES)
def test_pieces_of_training_that_do_not_fit_each_other(flaxcnn, home, case):
    assignments, says = PIECES[case]
    (home / "own.py").write_text(TOOLKIT)
    np.savez(home / "rows.npz", image=np.zeros((60, 8, 6), np.uint8), label=np.arange(60) % 10)
    settings = [word for each in assignments for word in ("-s", each)]
    refused(flaxcnn, home, 2, says, "train", "recipes.py:small", *settings)


# -- data ----------------------------------------------------------------------------------------


def rows(home, **changes):
    arrays = {"image": np.zeros((40, 8, 8), np.uint8), "label": np.arange(40) % 10}
    arrays = {k: v for k, v in {**arrays, **changes}.items() if v is not None}
    np.savez(home / "rows.npz", **arrays)
    return "npz:rows.npz"


LABEL = np.arange(40) % 10
ROWS = {
    "objects": ({"image": np.array([{}] * 40, object)}, r"image .* \(got objects \(a pickle\)"),
    "floats": ({"image": np.zeros((40, 8, 8), np.float32)}, r"image .*got float32\[40, 8, 8\]"),
    "flat": ({"image": np.zeros((40, 64), np.uint8)}, r"image must be .* \(got uint8\[40, 64\]\)"),
    "five channels": ({"image": np.zeros((40, 8, 8, 5), np.uint8)}, "1 to 4 channels"),
    "no rows": ({"image": np.zeros((0, 8, 8), np.uint8)}, "none of the sizes 0"),
    "one-hot": ({"label": np.eye(40, dtype=np.uint8)}, "label must be integers.* \\(got uint8"),
    "float labels": ({"label": LABEL.astype(np.float64)}, "label must be .* \\(got float64"),
    "negative": ({"label": LABEL - 1}, "label must be 0..K-1 \\(got -1 in row 0\\)"),
    "a gap": ({"label": np.where(LABEL == 3, 2, LABEL)}, "but no train row has 3"),
    "huge": ({"label": LABEL + 2**40}, "got 1099511627776 in row 0"),
    "lengths": ({"label": LABEL[:39]}, "must have equal lengths \\(got 40 and 39 rows"),
    "one class": ({"label": LABEL * 0}, "two or more classes \\(got only 0"),
    "no labels": ({"label": None}, "key label is missing"),
    "no keys": ({"image": None, "label": None, "x": LABEL}, "keys must be one of .*\\(got x\\)"),
    "unseen": (
        {"test_image": np.zeros((2, 8, 8), np.uint8), "test_label": np.array([0, 10])},
        "no train row has label 10 of test row 1; labels must be 0..9",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ROWS)
def test_rows_in_a_file(flaxcnn, home, case):
    changes, says = ROWS[case]
    name = rows(home, **changes)
    refused(flaxcnn, home, 3, says, "train", "recipes.py:small", "-s", f"dataset={name}")


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04", b"not a zip at all"])
def test_files_that_are_no_rows(flaxcnn, home, content):
    if content is not None:
        (home / "rows.npz").write_bytes(content)
    said = "No such file or directory" if content is None else "cannot be read as an .npz file"
    refused(flaxcnn, home, 3, f"npz:rows.npz: {said}",
            "train", "recipes.py:small", "-s", "dataset=npz:rows.npz")  # fmt: skip


def pictures(home, names=("cat", "dog"), count=15):
    random = np.random.default_rng(0)
    for name in names:
        (home / "pets" / name).mkdir(parents=True)
        for i in range(count):
            pixels = random.integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(pixels).save(home / "pets" / name / f"{i}.png")
    return home / "pets"


def odd_size(pets):
    Image.new("L", (9, 8)).save(pets / "cat" / "3.png")


def sixteen_bit(pets):
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(pets / "cat" / "3.png")


def cmyk(pets):
    Image.new("CMYK", (8, 8)).save(pets / "cat" / "x.jpg")


PICTURES = {
    "truncated": (lambda p: (p / "cat" / "3.png").write_bytes(b"\x89PNG\r\n"), "cat/3.png cannot"),
    "odd size": (odd_size, "cat/3.png is 8x9x1 .*all images must have one size"),
    "16-bit": (sixteen_bit, "cat/3.png has mode I;16"),
    "CMYK": (cmyk, "cat/x.jpg has mode CMYK"),
    "text": (
        lambda p: (p / "cat" / "film.mp4").write_text(""),
        "must hold only .* \\(got cat/film.mp4\\)",
    ),
    "empty class": (lambda p: (p / "emu").mkdir(), "class folder emu is empty"),
}


@pytest.mark.parametrize("case", PICTURES)
def test_pictures(flaxcnn, home, case):
    spoil, says = PICTURES[case]
    spoil(pictures(home))
    refused(flaxcnn, home, 3, says, "train", "recipes.py:small", "-s", "dataset=folder:pets")


def test_pictures_of_one_class(flaxcnn, home):
    pictures(home, ["cat"])
    refused(flaxcnn, home, 3, "two or more class folders", "train", "recipes.py:small",
            "-s", "dataset=folder:pets")  # fmt: skip


def test_pictures_of_fewer_classes_than_the_model_has(flaxcnn, home):
    pictures(home)
    says = r"layer \(dense\) gives \(10,\), but the data has 2 classes"
    refused(flaxcnn, home, 2, says, "train", "recipes.py:small", "-s", "dataset=folder:pets")


@pytest.mark.usefixtures("offline")
def test_neither_archives_nor_network(flaxcnn, home):
    for name in ("mnist", "fashion_mnist", "cifar10"):
        says = f"{name} is not prepared: .*FLAXCNN_ARCHIVES=DIR.*prepare {name} --from DIR.*online"
        model = {"cifar10": "cifar-tuning/model4"}.get(name, "mnist-ladder/model10")
        refused(flaxcnn, home, 3, says, "train", model, "-s", f"dataset={name}")


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08truncated", b"no gzip"])
def test_archives_that_are_not_the_published_ones(flaxcnn, home, monkeypatch, content):
    from flaxcnn.data.archives import IDX_FILES

    (home / "archives").mkdir()
    for file in IDX_FILES:
        (home / "archives" / file).write_bytes(content)
    monkeypatch.setenv("FLAXCNN_ARCHIVES", str(home / "archives"))
    refused(flaxcnn, home, 3, "train-images-idx3-ubyte.gz", "train", "mnist-ladder/model10")


def test_a_file_in_place_of_a_recipe(flaxcnn, home):
    text = (home / "recipes.py").read_text()
    (home / "one.py").write_text(text.partition("EXPERIMENTS")[0])
    assert flaxcnn("train", "one.py", "--print-config").code == 0
    done = flaxcnn("train", "recipes.py")
    assert done.code == 2
    assert done.err == (
        "error: experiment: recipes.py has several recipes; name one: recipes.py:small, "
        "recipes.py:mine/named\n"
    )


def test_the_sentences_of_the_commands_are_whole(flaxcnn, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    usage, *lines = flaxcnn("--help").out.splitlines()
    assert usage.startswith("Usage: ")
    assert not [line for line in lines if line.endswith("...")]
