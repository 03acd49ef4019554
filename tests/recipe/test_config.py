"""Config: strict both ways through JSON, overridden by name, with an origin for every value."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flaxcnn.errors import ConfigError
from flaxcnn.recipe import catalog, optimizers
from flaxcnn.recipe.augment import Flip, Shift
from flaxcnn.recipe.averages import EMA
from flaxcnn.recipe.config import GROUPS, Config
from flaxcnn.recipe.data import KNOWN_DATA, MAX_SEED
from flaxcnn.recipe.fields import ALWAYS_THERE, Role, names, settings
from flaxcnn.recipe.layers import (
    Activation,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool,
    MaxPool,
    Residual,
)
from flaxcnn.recipe.losses import Focal, TopK
from flaxcnn.recipe.networks import Linen
from flaxcnn.recipe.resize import Resize
from flaxcnn.recipe.rules import Decays, Fade, Lookahead, Norm, Rates
from flaxcnn.recipe.settings import Source, from_assignments, from_environment, layered
from flaxcnn.recipe.splits import Archive, Permuted, Ranges
from flaxcnn.recipe.teachers import Distill
from flaxcnn.recipe.views import Views
from flaxcnn.recipe.weights import Weights

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
FUNCTIONS = st.none() | st.sampled_from(["relu", "leaky_relu", "gelu", "tanh", "sigmoid"])
INITS = st.sampled_from(["glorot_uniform", "glorot_normal", "he_normal", "lecun_uniform"])
SIZES = st.one_of(st.integers(1, 3), st.tuples(st.integers(1, 3), st.integers(1, 3)))
PADDINGS = st.sampled_from(["valid", "same"])
UNIT = st.floats(0, 0.99)
RATES = st.floats(1e-6, 10.0)

CONVS = st.builds(Conv, st.integers(1, 9), SIZES, SIZES, PADDINGS, FUNCTIONS, INITS, st.booleans())
SHORTCUTS = st.booleans().map(lambda deep: (Conv(3, 1), BatchNorm()) if deep else (Conv(3, 1),))
RESIDUALS = st.builds(
    Residual,
    st.builds(Conv, st.just(3), st.integers(1, 3), padding=st.just("same")).map(lambda c: (c,)),
    SHORTCUTS,
    FUNCTIONS,
)
MAP_LAYERS = st.one_of(
    CONVS,
    RESIDUALS,
    st.builds(MaxPool, SIZES, st.none() | SIZES, PADDINGS),
    st.builds(AvgPool, SIZES, st.none() | SIZES, PADDINGS),
    st.builds(BatchNorm, UNIT, st.floats(1e-8, 1)),
    st.builds(Dropout, UNIT),
    st.builds(Activation, st.just("leaky_relu"), st.none() | UNIT),
)
FLAT_LAYERS = st.one_of(
    st.builds(Dense, st.integers(1, 9), FUNCTIONS, INITS, st.booleans()),
    st.builds(Dropout, UNIT),
    st.builds(BatchNorm),
)
OPTIMIZERS = st.one_of(
    st.builds(optimizers.SGD, momentum=st.floats(0.1, 0.9), nesterov=st.booleans()),
    st.builds(optimizers.Adam, UNIT, UNIT, RATES, UNIT),
    st.builds(optimizers.Nadam, schedule_decay=UNIT),
    st.builds(optimizers.Adamax, epsilon=RATES),
    st.builds(optimizers.RMSprop, UNIT, UNIT, RATES, st.booleans(), st.booleans(), UNIT),
    st.builds(optimizers.Adadelta, rho=UNIT),
    st.builds(optimizers.Adagrad, initial_accumulator=UNIT),
)
SCHEDULES = st.one_of(
    st.builds(optimizers.Constant),
    st.builds(optimizers.TimeDecay, UNIT),
    st.builds(optimizers.Cosine, UNIT, UNIT),
)
SPLITS = st.one_of(
    st.builds(Archive),
    st.builds(Permuted, st.just(1000), st.integers(0, 99), st.integers(1, 400), st.integers(1, 99)),
    st.builds(Ranges, *[st.integers(1, 500)] * 3),
)


@st.composite
def configs(draw):
    """Any legal Config on a built-in data set."""
    layers = (
        *draw(st.lists(MAP_LAYERS, max_size=5)),
        draw(st.sampled_from([Flatten(), GlobalAvgPool()])),
        *draw(st.lists(FLAT_LAYERS, max_size=2)),
        Dense(10),
    )
    protocol = draw(st.sampled_from(["honest", "document"]))
    validations = [st.floats(0.01, 0.9), st.integers(1, 900)]
    if protocol == "document":
        validations.append(st.just("test"))
    whole = st.integers(1, 500)
    seeds = st.integers(0, MAX_SEED)
    try:
        return Config(
            dataset=draw(st.sampled_from(list(KNOWN_DATA))),
            layers=layers,
            normalize=draw(st.sampled_from(["unit", "per_pixel", "per_channel"])),
            augment=tuple(
                draw(st.lists(st.one_of(st.builds(Flip), st.builds(Shift, UNIT, UNIT)), max_size=3))
            ),
            optimizer=draw(OPTIMIZERS),
            learning_rate=draw(st.none() | RATES),
            schedule=draw(SCHEDULES),
            label_smoothing=draw(UNIT),
            batch_size=draw(whole),
            drop_last=draw(st.booleans()),
            epochs=draw(whole),
            seed=draw(seeds),
            protocol=protocol,
            split=draw(SPLITS),
            validation=draw(st.one_of(validations)),
            split_seed=draw(seeds),
            monitor=draw(st.sampled_from(["val_accuracy", "val_loss"])),
            patience=draw(st.none() | whole),
            min_delta=draw(UNIT),
            keep=draw(st.sampled_from(["best", "last"])),
            precision=draw(st.sampled_from(["float32", "bfloat16"])),
            evaluate_train=draw(st.booleans()),
            save_every=draw(whole),
        )
    except ConfigError as error:
        assume("does not fit" not in str(error))  # too many pools for a small image
        raise


BASE = Config(
    dataset="digits",
    layers=(Conv(4), Flatten(), Dropout(0.5), Dense(10)),
    optimizer=optimizers.SGD(momentum=0.9),
)
EXPERIMENT = catalog.Experiment("a/b", "A test's", "", config=BASE)


def resolved(*assignments, experiment=EXPERIMENT, environ=None, **options):
    return catalog.resolve(
        experiment, assignments=assignments, environ=environ or {}, **options
    )  # fmt: skip


@given(config=configs())
def test_json_and_back_is_the_same_config(config):
    text = json.dumps(config.to_dict(), allow_nan=False)
    again = Config.from_dict(json.loads(text))
    assert again == config
    assert json.dumps(again.to_dict(), allow_nan=False) == text
    assert again.fingerprint() == config.fingerprint()


@given(config=configs(), seed=st.integers(0, MAX_SEED))
def test_override_by_text_is_replace(config, seed):
    experiment = catalog.Experiment("a/b", "A test's", "", config=replace(config, protocol="honest",
                                                                         validation=7))  # fmt: skip
    got, origins = resolved(f"seed={seed}", "epochs=3", "optimizer.weight_decay=0.25",
                            experiment=experiment)  # fmt: skip
    optimizer = replace(config.optimizer, weight_decay=0.25)
    assert got == replace(experiment.config, seed=seed, epochs=3, optimizer=optimizer)
    assert origins["seed"] == "command line"
    assert origins["batch_size"] == "experiment"


def test_every_field_changes_the_fingerprint():
    changed = {
        "dataset": "npz:there.npz", "layers": (Flatten(), Dense(10)), "normalize": "per_pixel",
        "augment": (Flip(),), "optimizer": optimizers.SGD(momentum=0.8), "learning_rate": 0.5,
        "schedule": optimizers.Cosine(), "label_smoothing": 0.1, "batch_size": 33,
        "drop_last": True, "epochs": 11, "seed": 1, "protocol": "document",
        "split": Ranges(5, 5, 5), "validation": 0.2, "split_seed": 1, "monitor": "val_loss",
        "patience": 3, "min_delta": 0.1, "keep": "last", "precision": "bfloat16",
        "evaluate_train": True, "save_every": 2, "determinism": "exact", "init_seed": 0,
        "order_seed": 0, "augment_seed": 0, "dropout_seed": 0, "parallel": "jit",
        "batch_norm": "per_shard", "accumulate": 2, "remat": True, "shard_optimizer": True,
        "model": Linen("flax.linen:Dense", features=10), "freeze": ("dense/*",),
        "loss": Focal(), "metrics": (TopK(3),),
        "sampling": "balanced", "class_weight": {"3": 2.0},
        "init_from": Weights("there.safetensors", digest="0" * 64), "no_decay": ("*/bias",),
        "rates": Rates(**{"*/bias": 0.1}), "clip": Norm(1.0), "sam": 0.05,
        "decays": Decays(**{"*/bias": 0.1}), "fade": Fade(**{"*/bias": 3}),
        "lookahead": Lookahead(), "average": EMA(0.9),
        "tta": Views(), "calibrate": True, "distill": Distill("there", digest="0" * 64),
        "on_nonfinite": "skip", "sdc_check": 5,
    }  # fmt: skip
    together = {  # what is allowed with another setting only
        "virtual_shards": {"determinism": "exact", "virtual_shards": 2},
        "learning_rate_scaling": {"learning_rate_scaling": "sqrt", "base_batch_size": 32},
        "base_batch_size": {"learning_rate_scaling": "sqrt", "base_batch_size": 64},
    }
    delivery = {  # which no bit depends on
        "input": "stream", "workers": 3, "data_memory": 1, "grace": 10.0,
    }  # fmt: skip
    assert {*changed, *together, *delivery, "resize", "channels"} == {
        field.name for field in fields(Config)
    }
    assert set(delivery) == set(names(Config, Role.DELIVERY))
    ways = [{name: value} for name, value in changed.items()] + list(together.values())
    prints = {replace(BASE, **way).fingerprint() for way in ways}
    assert len(prints | {BASE.fingerprint()}) == len(ways) + 1
    for name, value in delivery.items():
        assert replace(BASE, **{name: value}).fingerprint() == BASE.fingerprint()
    files = replace(BASE, dataset="folder:there")
    sizes = (None, Resize(8, 8), Resize(8, 9), Resize(8, 8, "random_crop"))
    assert len({replace(files, resize=size).fingerprint() for size in sizes}) == len(sizes)
    kinds = ("auto", "rgb", "grey")
    assert len({replace(files, channels=kind).fingerprint() for kind in kinds}) == len(kinds)


def test_fingerprints_of_earlier_records_stand():
    config = replace(BASE, dataset="folder:there")
    newer = {name for name, declared in settings(Config) if declared.before is not ALWAYS_THERE}
    left_out = newer | {*names(Config, Role.DELIVERY)}
    old = {key: value for key, value in config.to_dict().items() if key not in left_out}
    text = json.dumps(old, sort_keys=True, separators=(",", ":"))
    assert config.fingerprint() == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_no_fingerprint_ever_changes():
    """Recorded before the settings were declared in groups; a new field has to keep them all."""
    golden = json.loads((GOLDEN / "fingerprints.json").read_text())
    got = {}
    for name, experiment in catalog.experiments().items():
        if experiment.config:
            got[name] = experiment.config.fingerprint()
        if experiment.config and experiment.documented:
            config, _ = catalog.resolve(experiment, protocol="document", environ={})
            got[f"{name} document"] = config.fingerprint()
        for point in experiment.candidates:
            if point.config:
                got[f"{name} {json.dumps(dict(point.settings))}"] = point.config.fingerprint()
    assert got == golden["experiments"]
    base = catalog.find("digits/quickstart").config.to_dict()
    for changed, fingerprint in golden["quickstart with"]:
        assert Config.from_dict({**base, **changed}).fingerprint() == fingerprint, changed


def test_every_setting_is_declared_in_one_group():
    declared = [name for group in GROUPS for name, _ in settings(group)]
    assert declared == [name for name, _ in settings(Config)] == list(BASE.to_dict())
    assert declared == [field.name for field in fields(Config)]
    for _, one in settings(Config):
        assert one.sentence


def test_roles_name_what_the_lists_of_settings_named():
    """Each list stood somewhere in the package before roles were declared."""
    assert {*names(Config, Role.EXECUTION | Role.DELIVERY)} == {
        "save_every", "parallel", "shard_optimizer", "remat", "workers", "input", "data_memory",
        "grace", "sdc_check",
    }  # fmt: skip
    assert names(Config, Role.STREAM) == ("init_seed", "order_seed", "augment_seed", "dropout_seed")
    assert names(Config, Role.SEED) == ("seed",)
    assert {*names(Config, Role.PIXELS | Role.ROWS)} == {
        "dataset", "resize", "channels", "split", "split_seed",
    }  # fmt: skip
    assert names(Config, Role.HELD_OUT) == ("validation",)
    assert {*names(Config, Role.PROGRAM)} == {
        "normalize", "evaluate_train", "determinism", "class_weight",
    }  # fmt: skip
    assert {*names(Config, Role.COST)} == {
        "batch_size", "epochs", "precision", "determinism", "remat", "accumulate",
    }  # fmt: skip


def test_a_resize_is_said_by_its_sizes_or_as_a_whole():
    settings = from_assignments(["resize.height=8", "resize.width=9", "resize.train=center_crop"])
    files = replace(BASE, dataset="folder:there")
    config, origins = layered(files, [Source("command line", settings)])
    assert config.resize == Resize(8, 9, "center_crop")
    assert origins["resize.width"] == "command line"
    assert Config.from_dict(config.to_dict()) == config


def test_the_fingerprint_knows_values_and_not_how_they_were_written():
    written = replace(BASE, learning_rate=1, min_delta=0, layers=list(BASE.layers))
    assert written.fingerprint() == replace(BASE, learning_rate=1.0).fingerprint()
    assert Config.from_dict(written.to_dict()).layers == BASE.layers


def test_the_fingerprint_is_the_same_in_another_process():
    program = (
        "from flaxcnn.recipe.catalog import find;"
        "print(find('digits/quickstart').config.fingerprint())"
    )
    here = catalog.find("digits/quickstart").config.fingerprint()
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.strip() == here


BAD_VALUES = [
    ("learning_rate=-0.1", "learning_rate must be above 0 (got -0.1)"),
    ("learning_rate=0", "learning_rate must be above 0 (got 0.0)"),
    ("learning_rate=NaN", "learning_rate must be a finite number or none (got nan)"),
    ("learning_rate=1e999", "learning_rate must be a finite number or none (got inf)"),
    ("learning_rate=-Infinity", "learning_rate must be a finite number or none (got -inf)"),
    ("learning_rate=fast", "learning_rate must be a number or none (got 'fast')"),
    ("learning_rate=true", "learning_rate must be a number or none (got True)"),
    ("label_smoothing=1", "label_smoothing must be at least 0 and below 1 (got 1.0)"),
    ("min_delta=-1", "min_delta must be at least 0 (got -1.0)"),
    ("min_delta=NaN", "min_delta must be a finite number (got nan)"),
    ("epochs=0", "epochs must be from 1 to 1000000 (got 0)"),
    ("epochs=2.5", "epochs must be an integer (got 2.5)"),
    ("epochs=3.0", "epochs must be an integer (got 3.0)"),
    ('epochs="3"', "epochs must be an integer (got '3')"),
    ("epochs=true", "epochs must be an integer (got True)"),
    ("epochs=null", "epochs must be an integer (got None)"),
    (f"epochs={'9' * 5000}", "epochs must be an integer (got '999"),
    ("batch_size=-3", "batch_size must be from 1 to 1048576 (got -3)"),
    ("save_every=0", "save_every must be at least 1 (got 0)"),
    ("patience=0", "patience must be at least 1 (got 0)"),
    ("seed=-1", f"seed must be from 0 to {MAX_SEED} (got -1)"),
    (f"seed={MAX_SEED + 1}", f"(got {MAX_SEED + 1})"),
    (f"split_seed={MAX_SEED + 1}", f"split_seed must be from 0 to {MAX_SEED}"),
    (f"order_seed={MAX_SEED + 1}", f"order_seed must be from 0 to {MAX_SEED}"),
    ("workers=257", "workers must be from 0 to 256 (got 257)"),
    ("accumulate=33", "accumulate must be at most batch_size=32 (got 33)"),
    ("drop_last=1", "drop_last must be true or false (got 1)"),
    ("validation=0", "validation must be a fraction between 0 and 1 or a number of rows"),
    ("validation=1.0", "(got 1.0)"),
    ("validation=tset", "validation must be an integer, test or a number (got 'tset')"),
    ("validation=tset", "did you mean 'test'?"),
    ("validation=test", "needs protocol=document"),
    ("protocol=honset", "protocol must be honest or document (got 'honset'); did you mean"),
    ("keep=lats", "did you mean 'last'?"),
    ("precision=bfloat", "did you mean 'bfloat16'?"),
    ("normalize=1", "normalize must be unit, per_pixel or per_channel (got 1)"),
    (
        "optimizer=adm",
        "optimizer must be sgd, adam, nadam, adamax, rmsprop, adadelta, adagrad, muon or optax",
    ),
    ("optimizer=adm", "(got 'adm'); did you mean 'adam'?"),
    ("optimizer=3", "(got 3)"),
    (
        "optimizer.momentun=0.5",
        "unknown setting optimizer.momentun; did you mean 'momentum'? sgd has momentum, nesterov, "
        "weight_decay",
    ),
    ("optimizer.momentum=1", "optimizer.momentum must be at least 0 and below 1 (got 1.0)"),
    ("optimizer.momentum=-0.1", "(got -0.1)"),
    ("optimizer.weight_decay=-1", "optimizer.weight_decay must be at least 0 (got -1.0)"),
    ('optimizer={"type":"adam","epsilon":0}', "optimizer.epsilon must be above 0 (got 0.0)"),
    ('optimizer={"type":"sgd","nesterov":true}', "needs a momentum above 0"),
    ("schedule=timedecay", "schedule.decay is missing; timedecay needs it"),
    ('schedule={"type":"timedecay","decay":-1}', "schedule.decay must be at least 0 (got -1.0)"),
    ('schedule={"type":"cosine","final":2}', "schedule.final must be from 0 to 1 (got 2.0)"),
    ('schedule={"type":"constant","decay":1}', "schedule.decay; constant has no settings"),
    ("split.rows=5", "unknown setting split.rows; archive has no settings"),
    ('split={"type":"ranges","train":0,"validation":1,"test":1}', "must be at least 1"),
    ('split={"type":"permuted","rows":9,"seed":0,"test":5,"validation":4}', "training rows"),
    ("augment=flipp", "augment.0 must be "),
    ("augment=3", "augment must be a list (got 3)"),
    ("augment.0=flip", "augment.0: the index has no item to change (got '0')"),
    ('augment=[{"type":"shift","height":1}]', "augment.height must be at least 0 and below 1"),
    ("layers.2.rate=1.0", "dropout.rate must be at least 0 and below 1 (got 1.0)"),
    ("layers.2.rat=0.5", "unknown setting layers.2.rat; did you mean 'rate'? dropout has rate"),
    ("layers.9.rate=0.5", "layers.9.rate: the index must be from 0 to 3 (got '9')"),
    ("layers.².rate=0.5", "layers.².rate: the index must be from 0 to 3 (got '²')"),
    ("layers.0.filters=0", "conv.filters must be an integer from 1 to 1048576 (got 0)"),
    ("layers.0.kernel=9", "layer conv2d: kernel 9x9 does not fit its 8x8 input"),
    ("layers.0.kernel=[3,3,3]", "layers.0.kernel must be an integer or a list of 2"),
    ("layers.0.activation=rellu", "did you mean 'relu'?"),
    ("layers=[]", "layers is empty"),
    ("dataset=minst", "did you mean 'mnist'?"),
    ("dataset=folder:", "tfds:NAME or hf:NAME (got 'folder:')"),
    ("epoch=3", "unknown setting epoch; did you mean 'epochs'? config has dataset, "),
    ("epoch=3", "did you mean 'epochs'?"),
    ("=3", "write it as KEY=VALUE"),
    ("epochs", "write it as KEY=VALUE"),
]


@pytest.mark.parametrize(("assignment", "message"), BAD_VALUES)
def test_a_bad_value_is_refused_by_name(assignment, message):
    with pytest.raises(ConfigError) as error:
        resolved(assignment)
    assert message in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        (f"seed={MAX_SEED}", "seed", MAX_SEED),
        ("learning_rate=1", "learning_rate", 1.0),
        ("patience=none", "patience", None),
        ("patience=None", "patience", None),
        ("evaluate_train=True", "evaluate_train", True),
        ("validation=500", "validation", 500),
        ("validation=0.25", "validation", 0.25),
        ("optimizer=ADAM", "optimizer", optimizers.Adam()),
        ("optimizer.nesterov=true", "optimizer", optimizers.SGD(0.9, nesterov=True)),
        ('augment=["flip"]', "augment", (Flip(),)),
        ("augment=flip", "augment", (Flip(),)),
        ("dataset=folder:pictures", "dataset", "folder:pictures"),
        (" epochs = 4 ", "epochs", 4),
    ],
)
def test_a_good_value_is_taken(assignment, path, value):
    got = getattr(resolved(assignment)[0], path)
    assert got == value
    assert type(got) is type(value)


def test_one_value_is_enough_where_it_says_all(tmp_path):
    config = resolved("dataset=folder:pets", "resize=48", "resize.train=center_crop")[0]
    assert config.resize == Resize(48, 48, "center_crop")
    (tmp_path / "summary.json").write_text('{"params_digest": "0"}')
    assert resolved(f"init_from={tmp_path}")[0].init_from == Weights(str(tmp_path))
    with pytest.raises(ConfigError, match=r"resize\.height must be an integer \(got 'big'\)"):
        resolved("dataset=folder:pets", "resize=big")


def test_validation_on_the_test_split_needs_the_document_protocol():
    with pytest.raises(ConfigError, match="needs protocol=document"):
        replace(BASE, validation="test")
    config = replace(BASE, validation="test", protocol="document")
    assert any("optimistic" in warning for warning in config.warnings())
    assert BASE.warnings() == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"patience": 10, "epochs": 10}, "never stops"),
        ({"optimizer": optimizers.Adamax(epsilon=1.0)}, "Adamax hardly moves"),
    ],
)
def test_legal_values_that_seldom_mean_what_they_say_are_warned_of(change, word):
    assert [w for w in replace(BASE, **change).warnings() if word in w]


def test_sources_override_each_other_in_the_promised_order(tmp_path):
    file = tmp_path / "more.toml"
    file.write_text("epochs = 2\nbatch_size = 2\nseed = 2\nsave_every = 2\n")
    environ = {"FLAXCNN_BATCH_SIZE": "3", "FLAXCNN_SEED": "3", "FLAXCNN_SAVE_EVERY": "3",
               "FLAXCNN_ARCHIVES": "not a field", "HOME": "x"}  # fmt: skip
    config, origins = resolved("seed=4", "save_every=4", config_file=file, environ=environ, seed=5)
    assert (config.epochs, config.batch_size, config.save_every, config.seed) == (2, 3, 4, 5)
    assert origins["epochs"] == f"file {file}"
    assert origins["batch_size"] == "environment"
    assert origins["save_every"] == origins["seed"] == "command line"
    assert origins["keep"] == "experiment"
    assert set(origins) == {field.name for field in fields(Config)}


def test_the_last_of_two_assignments_wins():
    assert resolved("epochs=3", "epochs=4")[0].epochs == 4


def test_another_optimizer_brings_its_own_rate_unless_one_is_given():
    config, origins = resolved("optimizer=adadelta")
    assert config.learning_rate == optimizers.Adadelta.default_learning_rate
    assert origins["learning_rate"] == "default of adadelta"
    for order in (["optimizer=adam", "learning_rate=0.3"], ["learning_rate=0.3", "optimizer=adam"]):
        config, origins = resolved(*order)
        assert config.learning_rate == 0.3
        assert origins["learning_rate"] == "command line"
    same_kind, _ = resolved("optimizer=sgd", experiment=replace_rate(0.7))
    assert same_kind.learning_rate == 0.7


def replace_rate(rate):
    return replace(EXPERIMENT, config=replace(BASE, learning_rate=rate))


def test_a_file_may_hold_its_rate_above_its_optimizer(tmp_path):
    file = tmp_path / "more.toml"  # TOML has plain keys before tables
    file.write_text('learning_rate = 0.3\n[optimizer]\ntype = "rmsprop"\nrho = 0.5\n')
    config, _ = resolved(config_file=file)
    assert config.optimizer == optimizers.RMSprop(rho=0.5)
    assert config.learning_rate == 0.3


def test_a_table_without_type_is_merged_key_by_key(tmp_path):
    file = tmp_path / "more.json"
    file.write_text('{"optimizer": {"nesterov": true}}')
    assert resolved(config_file=file)[0].optimizer == optimizers.SGD(0.9, nesterov=True)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("missing.toml", None),
        ("broken.toml", "epochs = "),
        ("broken.json", "{"),
        ("list.json", "[1]"),
        ("binary.toml", b"\xff\xfe\x00"),
        ("deep.json", "[" * 100_000),
    ],
)
def test_an_unreadable_file_is_named(tmp_path, name, text):
    file = tmp_path / name
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=name):
        resolved(config_file=file)


def test_the_environment_nests_by_two_underscores_in_any_order():
    nested = {"FLAXCNN_OPTIMIZER__MOMENTUM": "0.5", "FLAXCNN_OPTIMIZER": "sgd"}
    experiment = replace(EXPERIMENT, config=replace(BASE, optimizer=optimizers.Adam()))
    for environ in (nested, dict(reversed(nested.items()))):
        config, _ = resolved(experiment=experiment, environ=environ)
        assert config.optimizer == optimizers.SGD(momentum=0.5)
    assert from_environment({"FLAXCNN_SPLIT_SEED": "3"}) == {"split_seed": 3}


def test_the_document_protocol_lays_its_settings_between_recipe_and_user():
    documented = {"validation": "test", "keep": "last", "patience": 10}
    experiment = replace(EXPERIMENT, documented=documented)
    config, origins = resolved("patience=2", experiment=experiment, protocol="document")
    assert (config.protocol, config.validation, config.keep) == ("document", "test", "last")
    assert (config.patience, origins["patience"]) == (2, "command line")
    assert origins["validation"] == "document"
    for way in ({"environ": {"FLAXCNN_PROTOCOL": "document"}}, {}):
        assignments = () if way else ("protocol=document",)
        again, _ = resolved(*assignments, experiment=experiment, **way)
        assert again == replace(config, patience=10)
    honest, _ = resolved(experiment=experiment, environ={"FLAXCNN_PROTOCOL": "document"},
                         protocol="honest")  # fmt: skip
    assert honest == BASE


def test_layered_leaves_its_base_alone():
    before = BASE.to_dict()
    layered(BASE, [Source("here", {"layers.0.filters": 7, "optimizer.momentum": 0.1})])
    assert BASE.to_dict() == before
