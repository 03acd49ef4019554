"""A loss and metrics of one's own through whole runs: the guarantees of the built-in ones."""

import dataclasses
import functools
import json
import math

import jax
import numpy as np
import pytest
from small_runs import compiled_in
from test_sharding import ROWS
from test_step import DATA, HYPERS, SHAPE, plan_of, seeds

import flaxcnn
from flaxcnn.engine import epoch
from flaxcnn.engine.devices import replicated
from flaxcnn.engine.digest import tree_digest
from flaxcnn.engine.metrics import finalize
from flaxcnn.engine.saved import evaluate_run, open_run
from flaxcnn.engine.sharding import BatchSharding
from flaxcnn.engine.step import init_state
from flaxcnn.errors import ConfigError
from flaxcnn.model.losses import build_loss, build_metrics
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Dense, Flatten, Own, Residual
from flaxcnn.recipe.losses import Loss, Metric, TopK

OWN = """
import dataclasses

import jax
import jax.numpy as jnp


def tempered(logits, target, temperature=1.0):
    return -(target * jax.nn.log_softmax(logits / temperature)).sum(-1)


def entropy(logits, label):
    log_p = jax.nn.log_softmax(logits)
    return -(jnp.exp(log_p) * log_p).sum(-1)


def of_batch(logits, target):
    return tempered(logits - logits.mean(0), target)


@dataclasses.dataclass(frozen=True)
class Gate:
    ratio: int = 4
    rate: float = 0.5

    def init(self, key, shape):
        return {"down": 0.1 * jax.random.normal(key, (shape[-1], self.ratio)),
                "up": jnp.zeros((self.ratio, shape[-1]))}

    def apply(self, params, x, *, train, rows):
        gate = jax.nn.sigmoid(jnp.tanh(x @ params["down"]) @ params["up"])
        if train:
            kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.rate))(rows.keys)
            gate = jnp.where(kept[:, None], gate, 0.5)
        return x * gate


@dataclasses.dataclass(frozen=True)
class Wrong:
    what: str = "out"

    def out(self, shape):
        return (shape[0] + 1,) if self.what == "out" else shape

    def params(self, shape):
        return (7, 0) if self.what == "params" else 0

    def init(self, key, shape):
        return [1] if self.what == "init" else {}

    def apply(self, params, x):
        if self.what == "rows":
            return x.sum(0)
        return x @ x if self.what == "apply" else x


def nowhere(logits, target):
    return jnp.log(logits - logits).sum(-1)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    with compiled_in(tmp_path / "compiled"):
        yield tmp_path / "own.py"


def recipe(**settings):
    given = {
        "loss": Loss("own.py:tempered", temperature=2.0), "monitor": "val_entropy",
        "metrics": (Metric("own.py:entropy", better="lower"), TopK(3)), "label_smoothing": 0.1,
        "epochs": 2, "batch_size": 100, "learning_rate": 0.02,
    }  # fmt: skip
    layers = (Flatten(), Own("own.py:Gate", ratio=3), Dense(10))
    return Config("digits", **{"layers": layers, **given, **settings})


def digest(result):
    return tree_digest(jax.device_get(result.state.params))


@pytest.mark.slow
def test_a_run_with_them(own, tmp_path):
    config = recipe(determinism="exact")
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    whole = flaxcnn.train(config, run_dir=tmp_path / "whole", verbose=False)
    logits = np.load(whole.path / "predictions.npz")
    p = np.exp(logits["logits"] - np.logaddexp.reduce(logits["logits"], axis=1, keepdims=True))
    # float32 on the device against float64 of the same logits
    assert whole.summary["test_entropy"] == pytest.approx(-(p * np.log(p)).sum(1).mean(), rel=1e-4)
    assert whole.history[1]["val_top3"] >= whole.history[1]["val_accuracy"]
    assert whole.summary["best_epoch"] == 1 + int(
        whole.history[1]["val_entropy"] < whole.history[0]["val_entropy"]
    )
    # Resumed, and in a study: the same bits.
    half = dataclasses.replace(config, epochs=1)
    flaxcnn.train(half, run_dir=tmp_path / "half", verbose=False)
    resumed = flaxcnn.train(config, run_dir=tmp_path / "half", resume=True, verbose=False)
    assert digest(resumed) == digest(whole)
    study = flaxcnn.study(config, range(2), study_dir=tmp_path / "study")
    assert study.rows[0]["params_digest"] == whole.summary["params_digest"]
    assert study.rows[0]["test_entropy"] == whole.summary["test_entropy"]
    entropies = study.summary["settings"][0]["metrics"]["test_entropy"]
    assert entropies["mean"] == pytest.approx(np.mean([r["test_entropy"] for r in study.rows]))
    # The run has its own copy.
    assert (whole.path / "source" / "own.py").read_text() == OWN
    own.write_text(OWN + "\n# changed\n")
    found = evaluate_run(open_run(whole.path))
    assert found["entropy"] == whole.summary["test_entropy"]
    with pytest.raises(ConfigError, match="has changed since the recipe was made"):
        flaxcnn.train(config, run_dir=tmp_path / "new", verbose=False)


def test_functions_given_in_python(own, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    import own as module

    warm = functools.partial(module.tempered, temperature=2.0)
    config = recipe(loss=warm, metrics=[module.entropy, TopK(3)])
    assert config.loss.named == {"temperature": 2.0}
    assert config.metrics[0].name == "entropy"
    assert Config.from_dict(config.to_dict()) == config
    with pytest.raises(ConfigError, match=r"loss: .*<lambda> must be defined at the top"):
        recipe(loss=lambda logits, target: logits)


def test_a_layer_of_ones_own_in_the_table_and_in_python(own, tmp_path, monkeypatch):
    row = recipe().table((8, 8, 1), 10)[1]
    assert (row.name, row.output, row.params) == ("gate", (64,), 2 * 3 * 64)
    assert row.macs == 2 * 3 * 64
    monkeypatch.syspath_prepend(str(tmp_path))
    import own as module

    block = Residual((module.Gate(rate=0.0),))
    config = recipe(layers=(Flatten(), module.Gate(ratio=3), block, Dense(10)))
    assert config.layers[1].named == {"ratio": 3, "rate": 0.5}
    assert [row.name for row in config.table((8, 8, 1), 10)] == [
        "flatten", "gate", "residual", "gate_1", "dense",
    ]  # fmt: skip
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: Own("own.py:Gat"), r"layer gat: .*no 'Gat' there; did you mean 'Gate'"),
        (lambda: Own("own.py:Gate", ratios=3), "refuses its arguments: .*'ratios'"),
        (lambda: Own("own.py:entropy"), "refuses its arguments|must have a method apply"),
        (lambda: Own("own.py:Wrong"), r"out\(\(64,\)\) says \(65,\), but it is \(64,\)"),
        (lambda: Own("own.py:Wrong", what="params"), r"params\(\(64,\)\) says 7, but it is 0"),
        (lambda: Own("own.py:Wrong", what="init"), r"must return a dict of arrays by name"),
        (lambda: Own("own.py:Wrong", what="rows"), r"apply must return \[B, ...\]"),
        (lambda: Own("own.py:Wrong", what="apply"), r"Wrong fails on \(64,\): "),
        (lambda: object(), "layers: each must be a layer of flaxcnn.recipe.layers, or an instance"),
    ],
)
def test_a_layer_that_cannot_be(own, layer, message):
    with pytest.raises(ConfigError, match=message) as error:
        recipe(layers=(Flatten(), layer(), Dense(10)))
    assert "\n" not in str(error.value)


def trained(plan):
    """(digest of the weights after an epoch, its figures)."""
    devices = plan.sharding.devices
    state = jax.jit(init_state, static_argnums=(0, 1))(plan, SHAPE, seeds(0), HYPERS)
    args = jax.device_put((state, HYPERS, DATA, ROWS), replicated(devices))
    after, sums = jax.jit(epoch.train_epoch, static_argnums=0)(plan, *args)
    return tree_digest(jax.device_get(after.params)), finalize(jax.device_get(sums))


@pytest.mark.slow
def test_the_bits_do_not_depend_on_the_number_of_devices(own):
    """Nor on whether metrics are measured."""
    loss = build_loss(Loss("own.py:tempered", temperature=2.0))
    metrics = build_metrics([Metric("own.py:entropy"), TopK(2)])
    layers = (Flatten(), Own("own.py:Gate", ratio=3), Dense(4))
    plan = plan_of(layers, rows=len(ROWS), loss=loss, metrics=metrics)
    each = [
        trained(dataclasses.replace(plan, sharding=BatchSharding(devices, virtual=4)))
        for devices in (1, 4)
    ]
    assert each[0] == each[1]
    assert list(each[0][1]) == ["loss", "accuracy", "entropy", "top2"]
    unmeasured = dataclasses.replace(plan, sharding=BatchSharding(1, virtual=4), metrics=())
    assert trained(unmeasured)[0] == each[0][0]


def test_a_loss_of_the_batch_is_said_or_refused(own, tmp_path):
    config = recipe(loss=Loss("own.py:of_batch"), epochs=1, determinism="exact")
    with pytest.raises(ConfigError, match=r"exact cannot be kept by own.py:Gate, own.py:of_batch"):
        flaxcnn.train(config, run_dir=tmp_path / "run", verbose=False)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite(own, tmp_path):
    config = recipe(loss=Loss("own.py:nowhere"))
    with pytest.raises(
        ConfigError, match=r"the loss of own.py:Gate, own.py:nowhere is -inf before"
    ):
        flaxcnn.train(config, run_dir=tmp_path / "run", verbose=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"monitor": "val_top5"}, "monitor must be .*val_top3.*did you mean 'val_top3'"),
        ({"metrics": (TopK(3), TopK(3))}, "'top3' cannot be a metric's name"),
        (
            {"metrics": (Metric("own.py:entropy", name="loss", source="0"),)},
            "'loss' cannot be a metric's",
        ),
        ({"metrics": ({"type": "topk", "k": 0},)}, "metrics.k must be an integer of at least 1"),
        ({"loss": "focl"}, "loss must be .*did you mean 'focal'"),
    ],
)
def test_settings_that_cannot_be(own, settings, message):
    with pytest.raises(ConfigError, match=message):
        recipe(**{"monitor": "val_loss", **settings})


@pytest.mark.slow
def test_focal_by_name(own, tmp_path):
    config = recipe(loss={"type": "focal", "gamma": 1.0}, metrics=["topk"], monitor="val_top5")
    result = flaxcnn.train(config, run_dir=tmp_path / "run", verbose=False)
    assert math.isfinite(result.summary["test_loss"])
    assert 0 <= result.summary["test_accuracy"] <= result.summary["test_top5"] <= 1
