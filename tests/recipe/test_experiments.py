"""The shipped experiments against the figures extracted from their documents.

`golden/experiments.json` was derived from the documents independently of the recipes. A layer
reads `[what, output shape, parameters]`; its softmax stands for our logits.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from flaxcnn.errors import ConfigError
from flaxcnn.recipe import catalog
from flaxcnn.recipe.augment import Flip, Shift
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.data import KNOWN_DATA
from flaxcnn.recipe.layers import (
    Activation,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    MaxPool,
    pair,
    totals,
)
from flaxcnn.recipe.optimizers import (
    SGD,
    Adadelta,
    Adam,
    Adamax,
    Constant,
    Nadam,
    RMSprop,
    TimeDecay,
)
from flaxcnn.recipe.splits import Permuted, Ranges

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "experiments.json").read_text())
OURS = [  # not the documents'
    "digits/quickstart", "cifar-tuning/model2-no-dropout", "cifar-tuning/model4-epsilon-1e-7",
    "fashion-budget/final-dropout-0.2",
]  # fmt: skip
MODELS = [name for name, entry in GOLDEN.items() if entry["kind"] == "model"]
GRIDS = [name for name, entry in GOLDEN.items() if entry["kind"] == "grid"]
REPORTED_NUMBERS = {
    "test_accuracy", "test_loss", "val_accuracy", "val_loss", "best_val_accuracy",
    "best_val_epoch", "train_accuracy", "train_loss", "first100_errors", "cv_accuracy", "folds",
    "params", "epochs", "seconds_per_epoch",
}  # fmt: skip


def table(config):
    return config.table(*KNOWN_DATA[config.dataset])


def counts(config):
    return {k: v for k, v in totals(table(config)).items() if k != "bytes"}


def size(value):
    return "x".join(map(str, pair(value, "size")))


def describe(layer, last=False):
    """The layer as the golden file words it."""
    match layer:
        case Conv(stride=1, bias=True):
            function = layer.activation or "linear"
            window = f"{layer.filters} {size(layer.kernel)} {layer.padding}"
            return f"conv2d {window} {function} {layer.init}"
        case MaxPool(stride=None, padding="valid"):
            return f"max_pool {size(layer.size)}"
        case Dense(bias=True):
            function = "softmax" if last else layer.activation or "linear"
            return f"dense {layer.units} {function} {layer.init}"
        case Dropout():
            return f"dropout {layer.rate}"
        case Activation(slope=None):
            return f"activation {layer.function}"
        case Activation():
            return f"activation {layer.function} {layer.slope}"
        case BatchNorm(momentum=0.99, epsilon=0.001):
            return "batch_norm"
        case Flatten():
            return "flatten"
    return f"unknown to the documents: {layer}"


def described(config):
    rows = table(config)
    return [[describe(row.layer, row is rows[-1]), list(row.output), row.params] for row in rows]


def test_the_documents_hold_28_models_5_grids_and_a_mention():
    assert (len(MODELS), len(GRIDS), len(GOLDEN)) == (28, 5, 34)


def test_the_listing_is_the_quickstart_and_every_documented_experiment_in_order():
    known = catalog.experiments()
    assert [name for name, e in known.items() if e.document] == list(GOLDEN)
    assert [name for name, e in known.items() if not e.document] == OURS
    assert all(name == e.name for name, e in catalog.experiments().items())


@pytest.mark.parametrize("name", GOLDEN)
def test_what_it_is_and_where_it_is_from(name):
    experiment, golden = catalog.find(name), GOLDEN[name]
    assert experiment.kind == golden["kind"]
    assert experiment.document == golden["document"]
    listed = catalog.summary(experiment)
    assert listed["dataset"] == golden["dataset"]
    assert listed["name"] == name
    json.dumps(listed, allow_nan=False)


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_shape_and_count_is_the_documents(name):
    config, golden = catalog.find(name).config, GOLDEN[name]
    assert described(config) == golden["layers"]
    assert counts(config) == golden["totals"]
    listed = catalog.summary(catalog.find(name))
    assert {key: listed[key] for key in ("params", "trainable_params", "macs")} == {
        key: golden["totals"][key] for key in ("params", "trainable_params", "macs")
    }


@pytest.mark.parametrize("name", GOLDEN)
def test_the_reported_figures_are_the_documents(name):
    reported, golden = catalog.find(name).reported, GOLDEN[name]["reported"]
    assert {key: reported.get(key) for key in golden} == golden
    assert set(reported) <= REPORTED_NUMBERS | {"best_params"}
    assert reported.get("best_params") == GOLDEN[name].get("best_params")


@pytest.mark.parametrize("name", MODELS)
def test_the_docstring_table_repeats_the_reported_figures(name):
    module, _, tail = name.partition("/")
    source = catalog.experiments_folder() / f"{module.replace('-', '_')}.py"
    text = catalog.load_module(source).__doc__
    row = re.search(rf"^    {re.escape(tail)}  +(.+)$", text, re.MULTILINE)
    assert row, f"no row for {tail}"
    words = re.split(r" +", row[1])
    reported = catalog.find(name).reported
    assert f"{GOLDEN[name]['totals']['params']:,}" in words
    if "test_accuracy" in reported:
        assert reported["test_accuracy"] in {float(w) for w in words if re.fullmatch(r"0\.\d+", w)}
    if "@" in words:
        at = words.index("@")
        best = (float(words[at - 1]), int(words[at + 1]))
        assert best == (reported["best_val_accuracy"], reported["best_val_epoch"])


@pytest.mark.parametrize("name", MODELS)
def test_epochs_are_the_documents(name):
    assert catalog.find(name).config.epochs == GOLDEN[name]["reported"]["epochs"]


NADAM_2, RMSPROP_2 = Nadam(schedule_decay=0.004), RMSprop(epsilon_in_sqrt=False)
ADAMAX_1, NESTEROV = Adamax(epsilon=1.0), SGD(momentum=0.9, nesterov=True)
DECAY, NONE = TimeDecay(1e-6), Constant()
TRAINED = {  # optimizer, rate, schedule, batch size, normalisation
    "fashion-slim/final": (NADAM_2, 0.001, NONE, 32, "per_pixel"),
    "cifar-tuning/model1": (NESTEROV, 0.0008, NONE, 32, "unit"),
    "cifar-tuning/model2": (NESTEROV, 0.0008, NONE, 32, "unit"),
    "cifar-tuning/model3": (RMSPROP_2, 0.0001, DECAY, 32, "unit"),
    "cifar-tuning/model4": (ADAMAX_1, 0.002, NONE, 32, "unit"),
    "cifar-tuning/model5": (ADAMAX_1, 0.002, NONE, 32, "unit"),
    "cifar-tuning/model6": (RMSPROP_2, 0.0001, DECAY, 32, "unit"),
    "cifar-tuning/model7": (RMSPROP_2, 0.0001, DECAY, 32, "unit"),
    "mnist-archs/arch2-rmsprop": (RMSPROP_2, 0.001, NONE, 100, "unit"),
    "fashion-budget/final": (Adadelta(), 1.0, NONE, 32, "per_pixel"),
}
OTHERWISE = {
    "mnist-ladder": (Adam(), 0.001, NONE, 128, "unit"),
    "mnist-archs": (Adam(), 0.001, NONE, 100, "unit"),
}


@pytest.mark.parametrize("name", MODELS)
def test_training_settings_are_the_documents(name):
    config = catalog.find(name).config
    expected = TRAINED.get(name) or OTHERWISE[name.partition("/")[0]]
    got = (config.optimizer, config.learning_rate, config.schedule, config.batch_size)
    assert (*got, config.normalize) == expected
    is_cifar = config.dataset == "cifar10"
    assert config.augment == ((Shift(0.1, 0.1), Flip()) if is_cifar else ())


@pytest.mark.parametrize("name", ["digits/quickstart", *MODELS])
def test_the_recipe_itself_is_honest(name):
    config, _ = catalog.resolve(catalog.find(name), environ={})
    assert config == catalog.find(name).config
    assert config.protocol == "honest"
    assert config.validation == 0.1
    assert config.keep == "best"
    assert config.patience is None
    assert [w for w in config.warnings() if "epsilon" not in w] == []


DOCUMENTED = {
    "cifar-tuning": {"validation": "test", "keep": "last"},
    "mnist-ladder": {
        "validation": "test", "keep": "best", "monitor": "val_accuracy", "patience": 10,
    },
    "mnist-archs": {"validation": "test", "keep": "last"},
    "fashion-budget": {"keep": "last"},
    "fashion-slim": {"keep": "best", "monitor": "val_loss"},
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_the_documents_protocol_applies(name):
    experiment = catalog.find(name)
    expected = DOCUMENTED[name.partition("/")[0]]
    config, origins = catalog.resolve(experiment, protocol="document", environ={})
    assert config == replace(experiment.config, protocol="document", **expected)
    assert {key for key, origin in origins.items() if origin == "document"} == set(expected)
    optimistic = [w for w in config.warnings() if "optimistic" in w]
    assert bool(optimistic) == (expected.get("validation") == "test")


def test_splits_of_the_first_55000_rows():
    slim, budget = (
        catalog.find(f"fashion-{which}/final").config.split for which in ("slim", "budget")
    )
    assert slim == Ranges(train=33_500, validation=5_000, test=16_500)
    assert budget == Permuted(rows=55_000, seed=42, test=5_500, validation=5_000)
    assert slim.train + slim.validation + slim.test == 55_000


@pytest.mark.parametrize("name", GOLDEN)
def test_what_was_inferred_names_a_setting_and_gives_a_reason(name):
    experiment = catalog.find(name)
    known = {field.name for field in fields(Config)}
    known |= {key for point in experiment.candidates for key in point.settings}
    for path, why in experiment.inferred.items():
        assert path.partition(".")[0] in known
        assert len(why) > 15


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_lists_every_point_once(name):
    experiment, golden = catalog.find(name), GOLDEN[name]
    points = [tuple(sorted(point.settings.items())) for point in experiment.candidates]
    assert len(points) == len(set(points)) == golden["candidates"]
    names = {frozenset(point.settings) for point in experiment.candidates}
    assert len(names) == 1
    for point in experiment.candidates:
        assert (point.config is None) == bool(point.reason)
    # A full grid: as many points as the product of the values of each setting.
    values = [{point.settings[key] for point in experiment.candidates} for key in next(iter(names))]
    full = 1
    for distinct in values:
        full *= len(distinct)
    assert len(points) == full


@pytest.mark.parametrize("name", [name for name in GRIDS if "points" in GOLDEN[name]])
def test_a_grids_counts_are_the_documents(name):
    expected = GOLDEN[name]["points"]
    for point in catalog.find(name).candidates:
        key = ",".join(f"{k}={v}" for k, v in sorted(point.settings.items()))
        if expected[key] is None:
            assert point.config is None
            assert "does not fit" in point.reason
        else:
            got = counts(point.config)
            assert {k: got[k] for k in expected[key]} == expected[key]


@pytest.mark.parametrize("name", [name for name in GRIDS if "best_params" in GOLDEN[name]])
def test_the_winner_is_a_candidate(name):
    golden = GOLDEN[name]
    (winner,) = [c for c in catalog.find(name).candidates if c.settings == golden["best_params"]]
    if "layers" in golden:
        assert described(winner.config) == golden["layers"]
        assert counts(winner.config) == golden["totals"]
    else:
        assert described(winner.config) == GOLDEN["mnist-archs/arch1-k7"]["layers"]


def test_candidates_do_what_their_settings_say():
    for point in catalog.find("fashion-budget/grid").candidates:
        config, settings = point.config, point.settings
        assert config.epochs == settings["epochs"]
        rates = {layer.rate for layer in config.layers if isinstance(layer, Dropout)}
        assert rates == {settings["dropout_rate"]}
        hidden = [layer for layer in config.layers[:-1] if isinstance(layer, Conv | Dense)]
        assert {layer.activation for layer in hidden} == {settings["activation"]}
        optimizer, rate = {"Adadelta": (Adadelta(), 1.0), "Nadam": (NADAM_2, 0.002)}[
            settings["optimizer"]
        ]
        assert (config.optimizer, config.learning_rate) == (optimizer, rate)
        assert config.split == catalog.find("fashion-budget/final").config.split
    for name in ("cifar-tuning/grid-a", "cifar-tuning/grid-b"):
        for point in catalog.find(name).candidates:
            base = catalog.find("cifar-tuning/model3").config
            assert point.config == replace(base, augment=(), **point.settings)
    for point in catalog.find("mnist-archs/grid-kernel").candidates:
        assert (point.config.batch_size, point.config.epochs) == (100, 20)
        convs = [layer for layer in point.config.layers if isinstance(layer, Conv)]
        assert [conv.kernel for conv in convs] == [point.settings["n_kernel"]] * 2
    for point in catalog.find("fashion-slim/grid").candidates:
        if point.config:
            settings = (point.config.patience, point.config.monitor, point.config.epochs)
            assert settings == (5, "val_loss", 20)


GRID_VALUES = {
    "fashion-slim/grid": {"n_hidden": {1, 2, 3}, "f_val": {16, 32, 64}},
    "cifar-tuning/grid-a": {"batch_size": {32, 70, 40}, "epochs": {10, 30, 50}},
    "cifar-tuning/grid-b": {"batch_size": {32, 64, 128}, "epochs": {20, 30, 40}},
    "mnist-archs/grid-kernel": {"n_kernel": {2, 3, 5, 7, 11}},
    "fashion-budget/grid": {
        "activation": {"relu", "sigmoid"}, "optimizer": {"Adadelta", "Nadam"},
        "dropout_rate": {0.2, 0.3, 0.4}, "epochs": {20, 30},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", GRIDS)
def test_the_values_searched_are_the_documents(name):
    candidates = catalog.find(name).candidates
    got = {key: {c.settings[key] for c in candidates} for key in candidates[0].settings}
    assert got == GRID_VALUES[name]


@pytest.mark.parametrize("name", [n for n in GOLDEN if GOLDEN[n]["kind"] != "model"])
def test_what_cannot_be_trained_says_what_to_do(name):
    experiment = catalog.find(name)
    assert experiment.config is None
    with pytest.raises(ConfigError, match=f"{name} cannot be trained: ") as error:
        catalog.resolve(experiment, environ={})
    named = [other for other in MODELS if other in str(error.value)]
    assert named, "the refusal names a model that can be trained"
    assert (f"experiments show {name}`" in str(error.value)) == (experiment.kind == "grid")


def test_the_quickstart_is_small_and_is_the_default():
    experiment = catalog.find(catalog.DEFAULT_EXPERIMENT)
    assert experiment.config.dataset == "digits"
    assert counts(experiment.config)["params"] < 100_000


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("model12", "did you mean 'mnist-ladder/model12'?"),
        ("arch3", "did you mean 'mnist-archs/arch3'?"),
        ("final", "did you mean 'fashion-slim/final' or 'fashion-budget/final'?"),
        ("mnist-ladder/modl10", "did you mean 'mnist-ladder/model10'?"),
        ("there.py", "no file there.py"),
        ("there.py:x", "no file there.py"),
    ],
)
def test_an_unknown_name_is_refused_with_the_near_miss(name, hint):
    with pytest.raises(ConfigError) as error:
        catalog.find(name)
    assert hint in str(error.value)


RECIPE_FILE = """
from flaxcnn.recipe.catalog import Experiment
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Dense, Flatten

mine = Config(dataset="digits", layers=[Flatten(), Dense(10)])
EXPERIMENTS = (Experiment("own/other", "Another", "", config=mine),)
"""


def test_a_recipe_from_a_file_of_the_users(tmp_path):
    file = tmp_path / "own_recipes.py"
    file.write_text(RECIPE_FILE)
    for name in ("mine", "own/other"):
        config, _ = catalog.resolve(catalog.find(f"{file}:{name}"), environ={})
        assert config.layers == (Flatten(), Dense(10))
    assert catalog.find(f"{file}:mine").name == "own_recipes/mine"
    with pytest.raises(ConfigError, match=r"no recipe 'mien'.*did you mean 'mine'"):
        catalog.find(f"{file}:mien")


def test_a_recipe_that_is_wrong_is_found_by_its_line(tmp_path):
    file = tmp_path / "two_recipes.py"
    file.write_text(
        "from flaxcnn import Config\nfrom flaxcnn.recipe.layers import Dense, Flatten\n"
        "small = Config('digits', (Flatten(), Dense(10)))\n"
        "wrong = Config('digits', (Flatten(), Dense(9)))\n"
    )
    with pytest.raises(ConfigError, match=r"two_recipes\.py, line 4: .*end with dense units=10"):
        catalog.find(f"{file}:small")


@pytest.mark.parametrize("text", ["1 / 0", "import nowhere_to_be_found", "def"])
def test_a_broken_recipe_file_is_named(tmp_path, text):
    file = tmp_path / "broken_recipes.py"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"broken_recipes\.py(, line \d+)?: \w+Error"):
        catalog.find(f"{file}:x")


def test_neither_catalog_nor_experiments_import_jax():
    program = (
        "import sys; from flaxcnn.recipe import catalog;"
        "rows = [catalog.summary(e) for e in catalog.experiments().values()];"
        "heavy = {'jax', 'jaxlib', 'flax', 'optax', 'numpy', 'tensorflow_datasets'};"
        "print(len(rows), sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"{len(GOLDEN) + len(OURS)} []"
