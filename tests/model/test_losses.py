"""Losses and metrics of rows against NumPy and optax, and functions of one's own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads
from scipy import special

from flaxcnn.errors import ConfigError
from flaxcnn.model.losses import build_loss, build_metrics, check, row_loss, topk
from flaxcnn.recipe.losses import Brier, CrossEntropy, Focal, Loss, Metric, Poly1, TopK

# float32 against float64: a few roundings of numbers of about 1.
FLOAT32 = {"rtol": 2e-6, "atol": 1e-6}
RANDOM = np.random.default_rng(0)
LOGITS = 3 * RANDOM.normal(size=(9, 5))
LABEL = RANDOM.integers(0, 5, 9)
MIXED = RANDOM.dirichlet(np.ones(5), 9)
OWN = """
import jax
import jax.numpy as jnp


def plain(logits, target, scale=1.0):
    return -scale * (target * jax.nn.log_softmax(logits)).sum(-1)


def by_class(logits, label):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], axis=1)[:, 0]


def weighted(logits, target, weight):
    return plain(logits, target) * weight**2


def total(logits, target):
    return plain(logits, target).sum()


def needs(logits, target, beta):
    return beta * plain(logits, target)


def lonely(logits):
    return logits.sum(-1)


def broken(logits, target):
    return logits @ target


def entropy(logits, label):
    p = jax.nn.softmax(logits)
    return -(p * jnp.log(p)).sum(-1)


number = 3
"""


def expected(loss, target):
    """Each loss in float64, by its formula."""
    p = special.softmax(LOGITS, axis=1)
    entropy = -(target * np.log(p)).sum(1)
    match loss:
        case Focal(gamma=gamma):
            return -(target * (1 - p) ** gamma * np.log(p)).sum(1)
        case Poly1(epsilon=epsilon):
            return entropy + epsilon * (1 - (target * p).sum(1))
        case Brier():
            return ((p - target) ** 2).sum(1)
    return entropy


def found(loss, smoothing=None, weight=None, target=None):
    smooth = None if smoothing is None else jnp.float32(smoothing)
    given = (jnp.asarray(LOGITS, jnp.float32), jnp.asarray(LABEL, jnp.int32))
    return row_loss(build_loss(loss), *given, smooth, weight, "cpu", target)


@pytest.mark.parametrize("smoothing", [None, 0.1])
@pytest.mark.parametrize(
    "loss", [CrossEntropy(), Focal(), Focal(0.5), Poly1(), Poly1(-0.5), Brier()], ids=str
)
def test_losses_against_their_formulas(loss, smoothing):
    s = smoothing or 0.0
    for target in (np.eye(5)[LABEL], MIXED):
        given = None if target is not MIXED else jnp.asarray(MIXED, jnp.float32)
        exact = expected(loss, (1 - s) * target + s / 5)
        np.testing.assert_allclose(found(loss, smoothing, target=given), exact, **FLOAT32)
    weight = jnp.arange(9, dtype=jnp.float32)
    np.testing.assert_allclose(
        found(loss, smoothing, weight), weight * found(loss, smoothing), **FLOAT32
    )
    function, target = build_loss(loss), jnp.asarray(MIXED, jnp.float32)
    label = jnp.asarray(LABEL, jnp.int32)
    of_logits = lambda x: row_loss(function, x, label, None, None, "cpu", target).sum()  # noqa: E731
    check_grads(of_logits, (jnp.asarray(LOGITS, jnp.float32),), 1, ["rev"], eps=1e-2)


def test_poly1_and_focal_against_optax():
    target = jax.nn.one_hot(LABEL, 5, dtype=jnp.float32)
    logits = jnp.asarray(LOGITS, jnp.float32)
    np.testing.assert_allclose(
        found(Poly1(1.5)),
        optax.losses.poly_loss_cross_entropy(logits, target, epsilon=1.5),
        **FLOAT32,
    )
    np.testing.assert_allclose(
        found(Loss("optax.sigmoid_focal_loss", alpha=0.25)),
        optax.sigmoid_focal_loss(logits, target, alpha=0.25).sum(-1), **FLOAT32,
    )  # fmt: skip


def test_a_sure_row_has_a_gradient():
    """Where 1 - p rounds to 0, whose root has none."""
    logits = jnp.asarray([[60.0, 0.0]])
    loss = lambda x: build_loss(Focal(0.5))(x, jnp.asarray([[1.0, 0.0]])).sum()  # noqa: E731
    assert np.isfinite(jax.grad(loss)(logits)).all()


def test_topk_against_sorting():
    order = np.argsort(-LOGITS, axis=1)
    for k in (1, 2, 5):
        hits = [LABEL[row] in order[row, :k] for row in range(9)]
        ours = topk(jnp.asarray(LOGITS, jnp.float32), jnp.asarray(LABEL, jnp.int32), k)
        assert ours.tolist() == hits
    same = topk(jnp.zeros((1, 4)), jnp.zeros(1, jnp.int32), 3)  # a guess is not a hit
    assert same.tolist() == [0.0]


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)


def test_a_loss_of_ones_own(own):
    exact = expected(CrossEntropy(), np.eye(5)[LABEL])
    np.testing.assert_allclose(found(Loss("own.py:plain", scale=2)), 2 * exact, **FLOAT32)
    np.testing.assert_allclose(found(Loss("own.py:by_class")), exact, **FLOAT32)
    weight = jnp.arange(9, dtype=jnp.float32)
    squared = found(Loss("own.py:weighted"), weight=weight)
    np.testing.assert_allclose(squared, exact * np.arange(9) ** 2, **FLOAT32)
    np.testing.assert_allclose(found(Loss("own.py:weighted")), exact, **FLOAT32)
    with pytest.raises(ConfigError, match="by_class takes the class of a row, `label`"):
        found(Loss("own.py:by_class"), 0.1)
    assert [name for name, _ in build_metrics([TopK(3), Metric("own.py:entropy")])] == [
        "entropy", "top3",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Loss("own.py:plane"), "no 'plane' there; did you mean 'plain'"),
        (lambda: Loss("missing.py:plain"), "cannot read missing.py"),
        (
            lambda: Loss("own.py:plain", scales=2),
            "takes no argument 'scales'; did you mean 'scale'",
        ),
        (lambda: Loss("own.py:needs"), "needs needs the argument 'beta'; give it a value"),
        (lambda: Loss("own.py:lonely"), r"must take \(logits, target\), but it takes \(logits\)"),
        (lambda: Loss("own.py:number"), r"must be a function \(got int\)"),
        (lambda: Loss("own.py:total"), r"one number for each row, \[B\] \(got \[\] for logits"),
        (lambda: Loss("own.py:broken"), r"broken fails on target \[3, 5\] float32 and logits"),
        (lambda: Loss("own.py:plain", scale=object()), "loss.scale must be a number"),
        (lambda: Metric("own.py:plain", scale="a"), r"plain fails on label \[3\] int32"),
    ],
)
def test_a_function_that_cannot_be(own, make, message):
    def tried():
        spec = make()
        loss, metrics = (CrossEntropy(), [spec]) if isinstance(spec, Metric) else (spec, [])
        check(loss, metrics, 5)

    with pytest.raises(ConfigError, match=message) as error:
        tried()
    assert "\n" not in str(error.value)
