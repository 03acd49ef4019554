"""Optimizers of optax keep the exact mode's promise: the same bits on any number of devices."""

import dataclasses

import jax
import pytest
from optax_table import OPTIMIZERS
from test_sharding import ROWS
from test_step import DATA, HYPERS, PLAIN, SHAPE, plan_of, seeds

from flaxcnn.engine import epoch
from flaxcnn.engine.devices import replicated
from flaxcnn.engine.digest import tree_digest
from flaxcnn.engine.make_job import make_job
from flaxcnn.engine.promises import of_job
from flaxcnn.engine.sharding import BatchSharding
from flaxcnn.engine.step import init_state
from flaxcnn.recipe.augment import Mixup
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import BatchNorm, Dense, Flatten
from flaxcnn.recipe.optimizers import Optax

MIXING = Config(
    "digits", (Flatten(), BatchNorm(), Dense(10)), augment=(Mixup(),),
    optimizer=Optax("optax.lion"),
)  # fmt: skip
FEW = {"adamw"}  # in the quick suite
SOME = {"adafactor", "lamb", "lars", "contrib.muon", "contrib.prodigy", "novograd"}  # in CI


def marks(name):
    return () if name in FEW else pytest.mark.slow if name in SOME else pytest.mark.soak


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in OPTIMIZERS])
def test_the_bits_do_not_depend_on_the_number_of_devices(name):
    hypers = HYPERS.replace(optimizer={})
    digests = set()
    for devices in (1, 2, 4):
        plan = plan_of(PLAIN, rows=len(ROWS), optimizer=Optax(f"optax.{name}", **OPTIMIZERS[name]))
        plan = dataclasses.replace(plan, sharding=BatchSharding(devices, virtual=4))
        where = replicated(devices)
        state = jax.jit(init_state, static_argnums=(0, 1))(plan, SHAPE, seeds(0), hypers)
        args = jax.device_put((state, hypers, DATA, ROWS), where)
        after, _ = jax.jit(epoch.train_epoch, static_argnums=0)(plan, *args)
        digests.add(tree_digest(jax.device_get((after.params, after.opt_state))))
    assert len(digests) == 1


def test_the_first_step_is_tried_with_batch_norm_and_mixing_on_several_devices(digits):
    job = make_job(MIXING, digits)
    assert job.plan.sharding.devices > 1
    assert of_job(job) is None
