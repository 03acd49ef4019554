"""The loop that the package's is compared with trains the same networks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.peers import models
from flaxcnn.accelerators import plain
from flaxcnn.recipe.augment import Flip, Shift
from flaxcnn.recipe.layers import Dense, Flatten, table, totals

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def as_a_user_has_jax():
    """linen and optax widen and broadcast without being told."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize("name", ["digits/quickstart", "mnist-ladder/model10", "resnet18-cifar"])
def test_it_has_as_many_parameters(name):
    config = models.find(name)
    shape = {"digits": (8, 8, 1), "mnist": (28, 28, 1), "cifar10": (32, 32, 3)}[config.dataset]
    state = jax.eval_shape(lambda: plain.init_state(config, shape))
    found = sum(leaf.size for leaf in jax.tree.leaves((state["params"], state["batch_stats"])))
    expected = totals(table(config.layers, shape))
    assert found == expected["trainable_params"] + expected["non_trainable_params"]


def test_it_learns_and_evaluates():
    config = dataclasses.replace(
        models.find("digits/quickstart"), layers=(Flatten(), Dense(10)), batch_size=8,
        learning_rate=0.01,
    )  # fmt: skip
    label = jnp.arange(64) % 2
    image = jnp.broadcast_to((label * 200).astype(jnp.uint8)[:, None, None, None], (64, 8, 8, 1))
    state, rows = plain.init_state(config, (8, 8, 1)), jnp.arange(64)
    losses = []
    for _ in range(5):
        state, (loss, _) = plain.train_epoch(config, state, image, label, rows)
        losses.append(float(loss.mean()))
    assert losses[-1] < losses[0]
    (_, accuracy), logits = plain.evaluate(config, state, image, label, rows.reshape(4, 16))
    assert logits.shape == (4, 16, 10)
    assert float(accuracy.mean()) > 0.9


def test_augmentation():
    image = jnp.arange(2 * 8 * 8, dtype=jnp.uint8).reshape(2, 8, 8, 1)
    seen = [plain.augmented(jax.random.key(i), image, (Flip(),)) for i in range(8)]
    for each in seen:
        assert any((np.asarray(each[0]) == np.asarray(x[0])).all()
                   for x in (image, image[:, :, ::-1]))  # fmt: skip
    moved = plain.augmented(jax.random.key(0), image, (Shift(0.25, 0.0),))
    columns = np.asarray(moved[0, :, 0, 0])
    assert (np.diff(columns.astype(int)) >= 0).all()  # rows move, edges are repeated
    assert moved.shape == image.shape
