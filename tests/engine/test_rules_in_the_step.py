"""Rules of the update keep the promises: any number of devices, side by side, and with SAM."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_sharding import ROWS
from test_step import (
    DATA,
    HYPERS,
    NORMED,
    PLAIN,
    assert_close,
    batch,
    compiled_gradients,
    compiled_step,
    plan_of,
    start,
)

from flaxcnn.engine import epoch
from flaxcnn.engine.devices import replicated
from flaxcnn.engine.digest import tree_digest
from flaxcnn.engine.sharding import BatchSharding
from flaxcnn.engine.step import init_state
from flaxcnn.recipe.layers import Conv, Dense, Flatten
from flaxcnn.recipe.optimizers import SGD, Adam, Muon, Optax
from flaxcnn.recipe.rules import Adaptive, Lookahead, Norm, Rules

ALL = Rules(
    freeze=("dense/bias",), no_decay=("*/bias",), rates=("dense/*",), clip=Norm(0.5), sam=True,
    lookahead=Lookahead(2, 0.5, 1.0), decays=("*/kernel",), fade=("dense/kernel",),
)  # fmt: skip
OWN = {"rates.dense/*": jnp.float32(0.3), "clip": jnp.float32(0.05), "sam": jnp.float32(0.1),
       "lookahead": jnp.float32(0.5), "decays.*/kernel": jnp.float32(0.5),
       "fade.dense/kernel": jnp.float32(4)}  # fmt: skip
EACH = {
    "all of them": (Adam(weight_decay=0.5), ALL),
    "adaptive": (Adam(weight_decay=0.5), Rules(clip=Adaptive(0.5))),
    "muon": (Muon(other=SGD(0.9)), ALL),
    "optax": (
        Optax("optax.lamb", weight_decay=0.1),
        dataclasses.replace(ALL, sam=False, decays=()),
    ),
}
CONV = (Conv(4, 3), Flatten(), Dense(4))
QUICK = {"all of them"}


def hypers_of(optimizer):
    numbers = {name: jnp.float32(0.1) for name in optimizer.traced}
    return HYPERS.replace(optimizer=numbers, rules=OWN)


@pytest.mark.parametrize(
    "which", [w if w in QUICK else pytest.param(w, marks=pytest.mark.slow) for w in EACH]
)
def test_the_bits_do_not_depend_on_the_number_of_devices(which):
    optimizer, own = EACH[which]
    hypers, digests = hypers_of(optimizer), set()
    for devices in (1, 4):
        layers = CONV if which == "muon" else PLAIN
        plan = plan_of(layers, rows=len(ROWS), optimizer=optimizer, rules=own)
        plan = dataclasses.replace(plan, sharding=BatchSharding(devices, virtual=4))
        state = jax.jit(init_state, static_argnums=(0, 1))(
            plan, DATA.image[0].shape, jnp.zeros(4, jnp.uint32), hypers
        )
        args = jax.device_put((state, hypers, DATA, ROWS), replicated(devices))
        after, _ = jax.jit(epoch.train_epoch, static_argnums=0)(plan, *args)
        digests.add(tree_digest(jax.device_get((after.params, after.opt_state))))
    assert len(digests) == 1


def test_side_by_side_each_has_what_it_has_alone():
    """Numbers of the rules are stacked with the runs."""
    plan = plan_of(PLAIN, optimizer=Adam(weight_decay=0.5), rules=ALL)
    hypers, state = hypers_of(plan.optimizer), start(plan)
    other = hypers.replace(rules={**OWN, "clip": jnp.float32(0.01), "sam": jnp.float32(0.0)})
    step = lambda hypers: compiled_step(plan, state, hypers, DATA.scaling, batch(8))[0]  # noqa: E731
    together = jax.vmap(step)(jax.tree.map(lambda a, b: jnp.stack([a, b]), hypers, other))
    alone = [step(each) for each in (hypers, other)]
    assert_close(together.params, jax.tree.map(lambda a, b: jnp.stack([a, b]), *(
        each.params for each in alone)))  # fmt: skip
    gap = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), *(each.params for each in alone))
    assert gap["dense"]["kernel"] > 1e-4


def test_sam_takes_the_gradients_uphill_and_everything_else_where_it_is():
    """Foret et al. 2021, algorithm 1, on two calls of `gradients`."""
    plan = plan_of(NORMED, rules=Rules(sam=True))
    hypers, state = HYPERS.replace(rules={"sam": jnp.float32(0.5)}), start(plan)
    here = compiled_gradients(plan, state, hypers, DATA.scaling, batch(8))
    grads = jax.tree.map(lambda g: g / 8, here.grads)
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads)))
    uphill = state.replace(
        params=jax.tree.map(lambda p, g: p + 0.5 * g / norm, state.params, grads)
    )
    there = compiled_gradients(plan, uphill, hypers, DATA.scaling, batch(8))
    after, metrics = compiled_step(plan, state, hypers, DATA.scaling, batch(8))
    velocity = jax.tree.map(lambda g: -hypers.learning_rate * g / 8, there.grads)
    assert_close(after.params, jax.tree.map(jnp.add, state.params, velocity))
    assert_close(metrics, here.metrics)
    assert_close(after.batch_stats, jax.tree.map(lambda s: s / 8, here.batch_stats))
    plain, _ = compiled_step(plan_of(NORMED), state, HYPERS, DATA.scaling, batch(8))
    gap = jnp.abs(plain.params["dense"]["kernel"] - after.params["dense"]["kernel"]).max()
    assert gap > 1e-3  # the climb counts
