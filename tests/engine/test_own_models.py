"""A network of one's own through a whole run: trained, resumed, studied, read again."""

import dataclasses
import hashlib
import json

import jax
import numpy as np
import optax
import pytest
from flax import nnx

import flaxcnn
from flaxcnn.engine.digest import tree_digest
from flaxcnn.engine.saved import classify, evaluate_run, open_run
from flaxcnn.errors import ConfigError
from flaxcnn.model.foreign import build
from flaxcnn.model.traced import table
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Dense, Flatten
from flaxcnn.recipe.networks import NNX, Linen, Pure
from flaxcnn.recipe.optimizers import Optax

NETS = """
import flax.linen as linen
import jax
import optax
from flax import nnx

from flaxcnn import nn


class Plain(linen.Module):
    width: int = 4

    @linen.compact
    def __call__(self, x):
        x = linen.relu(linen.Conv(features=self.width, kernel_size=(3, 3))(x))
        x = linen.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
        return linen.Dense(features=10)(x.reshape((x.shape[0], -1)))


class Dropped(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.Dropout(0.5, deterministic=not train)(x.reshape((x.shape[0], -1)))
        return linen.Dense(10)(x)


class Narrow(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(9)(x.reshape((x.shape[0], -1)))


class Pair(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(10)(x.reshape((x.shape[0], -1))), x


class Two(linen.Module):
    @linen.compact
    def __call__(self, x, label):
        return linen.Dense(10)(x.reshape((x.shape[0], -1)))


class Nothing(linen.Module):
    def __call__(self):
        return 0


class Wide(linen.Module):
    width: int

    @linen.compact
    def __call__(self, x):
        return linen.Dense(10)(linen.Dense(self.width)(x.reshape((x.shape[0], -1))))


class Endless(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(10, bias_init=linen.initializers.constant(float("nan")))(
            x.reshape((x.shape[0], -1)))


class Noisy(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        if train:
            x += jax.random.normal(self.make_rng("noise"), x.shape)
        return linen.Dense(10)(x.reshape((x.shape[0], -1)))


class Keyless(nnx.Module):
    def __init__(self, width=3):
        self.width = width


def only_key(key):
    return {}


def number(learning_rate):
    return 1.0


def broken(learning_rate):
    def update(grads, state, params=None):
        raise ValueError("no step")

    return optax.GradientTransformation(lambda params: (), update)


class Modern(nnx.Module):
    def __init__(self, width: int = 4, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(1, width, kernel_size=(3, 3), rngs=rngs)
        self.linear = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x):
        return self.linear(nnx.relu(self.conv(x)).mean(axis=(1, 2)))


def first(key, image, scale=0.1):
    return {"w": scale * jax.random.normal(key, (image[0].size, 10))}


def then(params, image, scale=0.1):
    return image.reshape(len(image), -1) @ params["w"]
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path / "nets.py"


def config(model, **settings):
    return Config(
        "digits", model=model, **{"epochs": 2, "batch_size": 100, "learning_rate": 0.02, **settings}
    )


def digest(result):
    return tree_digest(jax.device_get(result.state.params))


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [lambda: Linen("nets.py:Plain", width=3), lambda: NNX("nets.py:Modern", width=3),
     lambda: Pure("nets.py:first", "nets.py:then", scale=0.2)],
    ids=["linen", "nnx", "pure"],
)  # fmt: skip
def test_a_run_of_it(nets, tmp_path, make):
    recipe = config(make())
    assert Config.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    whole = flaxcnn.train(recipe, run_dir=tmp_path / "whole", verbose=False)
    assert whole.history[1]["train_loss"] < whole.history[0]["train_loss"]
    assert whole.summary["params"] >= 70
    assert (whole.path / "source" / "nets.py").read_text() == NETS
    assert all(json.loads((whole.path / "model.json").read_text())["keeps"].values())
    flaxcnn.train(dataclasses.replace(recipe, epochs=1), run_dir=tmp_path / "half", verbose=False)
    resumed = flaxcnn.train(recipe, run_dir=tmp_path / "half", resume=True, verbose=False)
    assert digest(resumed) == digest(whole)
    nets.write_text(NETS + "\n# changed\n")  # the run has its own copy
    for use in (
        lambda run: evaluate_run(open_run(run))["accuracy"] == whole.summary["test_accuracy"],
        lambda run: flaxcnn.load(run)(np.zeros((1, 8, 8, 1))).shape == (1, 10),
        lambda run: "layers on 8×8×1 images" in flaxcnn.report(run).read_text(),
        lambda run: classify(open_run(run), np.zeros((1, 8, 8, 1), np.uint8)).shape == (1, 10),
    ):
        build.cache_clear()  # as in a process of its own
        table.cache_clear()
        assert use(whole.path)
    with pytest.raises(ConfigError, match="has changed since the recipe was made"):
        flaxcnn.train(recipe, run_dir=tmp_path / "new", verbose=False)


@pytest.mark.slow
def test_a_module_given_in_python(tmp_path, nets, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    import nets as module

    result = flaxcnn.train(
        "digits/quickstart", model=module.Plain(width=5), epochs=1, run_dir=tmp_path / "run",
        verbose=False,
    )  # fmt: skip
    plain = json.loads((result.path / "config.json").read_text())
    assert plain["model"]["type"] == "linen"
    assert plain["model"]["width"] == 5
    assert plain["layers"] == []
    logits = flaxcnn.load(result.path)(np.zeros((2, 8, 8, 1), np.uint8))
    assert logits.shape == (2, 10)
    with pytest.raises(ConfigError, match="unknown setting epoch; did you mean 'epochs'"):
        flaxcnn.train("digits/quickstart", model=module.Plain(), epoch=1)


@pytest.mark.slow
def test_a_study_of_it_has_the_bits_of_single_runs(nets, tmp_path):
    recipe = config(Linen("nets.py:Plain"), determinism="exact")
    rows = flaxcnn.study(recipe, range(2), study_dir=tmp_path / "study", how="map").rows
    alone = flaxcnn.train(
        dataclasses.replace(recipe, seed=1), run_dir=tmp_path / "one", verbose=False
    )
    assert rows[1]["params_digest"] == alone.summary["params_digest"]


@pytest.mark.slow
def test_it_is_done_again_from_the_copy_in_the_record(nets, tmp_path):
    """A run and a study, whose original has changed, or is gone: it is said, and made again."""
    recipe = config(Linen("nets.py:Plain"), determinism="exact", epochs=1)
    run = flaxcnn.train(recipe, run_dir=tmp_path / "run", verbose=False)
    study = flaxcnn.study(recipe, 2, how="map", study_dir=tmp_path / "study", verbose=False)
    (as_it_was,) = flaxcnn.reproduce(run).code
    assert as_it_was.startswith("nets.py is as recorded (SHA-256 ")
    then, now = recipe.model.source[:12], hashlib.sha256((NETS + "\n").encode()).hexdigest()[:12]
    nets.write_text(NETS + "\n")
    build.cache_clear()  # as in a process of its own
    again = flaxcnn.reproduce(study.path)
    assert again.same
    assert again.runs == 2
    digests = f"(SHA-256 then {then}..., now {now}...)"
    assert again.code == [f"nets.py has changed {digests}; the copy in the record is used"]
    nets.unlink()
    build.cache_clear()
    again = flaxcnn.reproduce(run.path)
    assert again.same
    assert again.code[0].startswith("nets.py is gone; the copy with SHA-256 ")


@pytest.mark.slow
def test_files_of_one_name_keep_their_copies_apart(nets, tmp_path):
    (tmp_path / "sub").mkdir()
    other = tmp_path / "sub" / "nets.py"
    other.write_text("import optax\n\n\ndef slow(learning_rate):\n"
                     "    return optax.sgd(learning_rate / 2)\n")  # fmt: skip
    recipe = config(Linen("nets.py:Plain"), optimizer=Optax("sub/nets.py:slow"), epochs=1)
    run = flaxcnn.train(recipe, run_dir=tmp_path / "run", verbose=False)
    copies = {path.name: path.read_text() for path in (run.path / "source").iterdir()}
    apart = f"nets-{recipe.optimizer.source[:8]}.py"
    assert copies == {"nets.py": NETS, apart: other.read_text()}
    other.unlink()
    nets.unlink()
    build.cache_clear()
    assert flaxcnn.reproduce(run.path).same


@pytest.mark.slow
def test_what_it_breaks_is_said_or_refused(nets, tmp_path):
    notes = []
    recipe = config(Linen("nets.py:Dropped"), epochs=1)
    from flaxcnn.data.datasets import load
    from flaxcnn.engine.train import fit

    fit(recipe, load("digits"), tmp_path / "run", on_note=notes.append)
    assert any("flaxcnn.nn.Dropout draws for each row" in note for note in notes)
    assert not json.loads((tmp_path / "run" / "model.json").read_text())["keeps"]["order"]
    with pytest.raises(ConfigError, match="determinism=exact cannot be kept by nets"):
        fit(dataclasses.replace(recipe, determinism="exact"), load("digits"), tmp_path / "exact")
    assert not (tmp_path / "exact").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linen("nets.py:Nett"), "no 'Nett' there"),
        (lambda: Linen("missing.py:Net"), "cannot read missing.py"),
        (lambda: Linen("no_such_package.nets:Net"), "there is no module no_such_package.nets"),
        (lambda: Linen("Net"), "names no Python object; write FILE.py:NAME"),
        (lambda: Linen("nets.py:Plain", depth=3), "refuses its arguments: .*depth"),
        (lambda: Linen("nets.py:Wide"), "refuses its arguments: .*'width'"),
        (lambda: Linen("nets.py:Modern"), "is a module of flax.nnx: use flaxcnn.NNX"),
        (lambda: Linen("nets.py:Narrow"), r"must return logits \[B, 10\] \(got \['B', 9\]"),
        (lambda: Linen("nets.py:Pair"), r"Pair fails on .* must return logits \[B, K\], not a tup"),
        (lambda: Linen("nets.py:Two"), "Two fails on images 8x8x1: TypeError: .*'label'"),
        (lambda: Linen("nets.py:Nothing"), "Nothing fails on images 8x8x1: TypeError: .* takes 1"),
        (lambda: Linen("nets.py:Endless"), "loss of nets.py:Endless is nan before the first step"),
        (lambda: Linen("nets.py:Noisy"), "Noisy fails in training: InvalidRngError: .*noise"),
        (lambda: Linen("nets.py:Plain", width=object()), "model.width must be a number"),
        (lambda: NNX("nets.py:Keyless"), "Keyless fails on images 8x8x1: TypeError: .*'rngs'"),
        (lambda: Pure("nets.py:first", "nets.py:first"), "fails on images 8x8x1"),
        (lambda: Pure("nets.py:only_key", "nets.py:then"), "takes 1 positional argument but 2"),
        (lambda: Pure("nets.py:first", "nets.py:then", scal=1), "unexpected keyword.*'scal'"),
    ],
)
def test_a_network_that_cannot_be(nets, tmp_path, make, message):
    with pytest.raises(ConfigError, match=message) as error:
        flaxcnn.train(config(make()), run_dir=tmp_path / "run", verbose=False)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_objects_that_are_no_network(nets, tmp_path, monkeypatch):
    """Given in Python; each is one sentence, and nothing is started."""
    monkeypatch.syspath_prepend(str(tmp_path))
    import nets as module

    class Local(module.Plain):
        pass

    recipe = config(None, layers=(Flatten(), Dense(10)))
    for model, message in (
        (module.Plain(width=jax.nn.relu), "model.width must be a number, text, true, false, none"),
        (module.Modern(rngs=nnx.Rngs(0)), "give the class, and its arguments by flaxcnn.NNX"),
        (Local(), "must be defined at the top of a module"),
        (lambda x: x, r"model must be a linen module, .* \(got function\)"),
        ((module.first, "then"), r"model must be a linen module, .* \(got tuple\)"),
        ("nets.py:Plain", r"\(got str\)"),
    ):
        with pytest.raises(ConfigError, match=message) as error:
            flaxcnn.train(recipe, model=model, run_dir=tmp_path / "run", verbose=False)
        assert "\n" not in str(error.value)
    for factory, message in (
        ("nets.py:first", "optimizer: nets.py:first refuses: .*'image'"),
        ("nets.py:number", "nets.py:number must return an optax.GradientTransformation"),
        ("nets.py:broken", "optimizer: nets.py:broken fails on gradients alone: no step"),
        ("optax.sgdd", "no 'sgdd' there; did you mean 'sgd'"),
    ):
        with pytest.raises(ConfigError, match=message) as error:
            flaxcnn.train(
                recipe, optimizer={"type": "optax", "factory": factory}, run_dir=tmp_path / "run"
            )
        assert "\n" not in str(error.value)
    for study, message in (
        ({"model": module.Narrow()}, "must return logits"),
        ({"grid": {"epochz": [1]}}, "unknown setting epochz"),
        ({"seeds": 0}, "seeds must be from 1"),
        ({"vary": ["augment"]}, "vary=augment needs"),
    ):
        with pytest.raises(ConfigError, match=message):
            flaxcnn.study(recipe, **{"seeds": 2, **study}, study_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_arrays_given_in_python(tmp_path, monkeypatch):
    """They are kept, so the run is evaluated, resumed and done again like any other."""
    from flaxcnn.data.datasets import load
    from flaxcnn.errors import DataError
    from flaxcnn.recipe.layers import Dense, Flatten

    monkeypatch.setenv("FLAXCNN_DATA_DIR", str(tmp_path / "data"))
    digits = load("digits")
    arrays = (digits.train.image, digits.train.label, digits.test.image, digits.test.label)
    recipe = Config("digits", (Flatten(), Dense(10)), epochs=1)
    known = flaxcnn.train(recipe, run_dir=tmp_path / "known", verbose=False)
    given = flaxcnn.train(recipe, data=arrays, run_dir=tmp_path / "given", verbose=False)
    assert digest(given) == digest(known)
    assert evaluate_run(open_run(given.path))["accuracy"] == known.summary["test_accuracy"]
    flaxcnn.train(recipe, data=arrays, run_dir=tmp_path / "again", verbose=False)
    assert len(list((tmp_path / "data" / "arrays").iterdir())) == 1
    for wrong, message in (
        (arrays[:3], "got 3 arrays"),
        ((arrays[0] - 0.5, arrays[1]), "must be pixels, integers from 0 to 255"),
        ((arrays[0], arrays[1] + 0.5), "label must be all integers or all text"),
        ((arrays[0], arrays[1][:5]), "must have equal lengths"),
    ):
        with pytest.raises(DataError, match=message):
            flaxcnn.train(recipe, data=wrong, run_dir=tmp_path / "wrong", verbose=False)


def test_specifications_take_the_object_itself(nets, tmp_path, monkeypatch):
    """As its name does; what is of a library goes by the library's name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    import nets as module

    name = module.__file__
    assert Linen(module.Plain, width=3) == Linen(f"{name}:Plain", width=3)
    assert NNX(module.Modern) == NNX(f"{name}:Modern")
    assert Pure(module.first, module.then) == Pure(f"{name}:first", f"{name}:then")
    assert flaxcnn.Optax(optax.lion, b1=0.8) == flaxcnn.Optax("optax.lion", b1=0.8)
    assert flaxcnn.Loss(module.first).function == f"{name}:first"
    for make in (Linen, NNX, flaxcnn.Loss, flaxcnn.Metric, flaxcnn.Optax):
        with pytest.raises(ConfigError, match="give a class or function, or its name as FILE"):
            make(3)
    with pytest.raises(ConfigError, match=r"names no Python object; write FILE\.py:NAME"):
        Linen("nets.py")
