"""FlaxCNNClassifier takes every other setting of a recipe, and does with it what a run does."""

import re

import flax.linen as nn
import jax
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits

from flaxcnn import FlaxCNNClassifier
from flaxcnn.errors import ConfigError
from flaxcnn.recipe.augment import Shift
from flaxcnn.recipe.averages import EMA
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.for_arrays import ELSEWHERE, other_settings
from flaxcnn.recipe.layers import Dense, Flatten

FEATURES, LABELS = load_digits(return_X_y=True)
IMAGES = (FEATURES[:200] * 15).astype(np.uint8).reshape(-1, 8, 8)
LABELS = LABELS[:200]
LINEAR = (Flatten(), Dense(10))


class Linear(nn.Module):
    @nn.compact
    def __call__(self, image):
        return nn.Dense(10)(image.reshape(len(image), -1))


def fitted(**settings):
    model = FlaxCNNClassifier(LINEAR, epochs=2, random_state=0, settings=settings)
    return clone(model).fit(IMAGES, LABELS)  # as a search has it


def test_augmentation_and_smoothing_change_the_training():
    plain, shifted = fitted(), fitted(augment=(Shift(0.2),))
    assert plain.loss_curve_ != shifted.loss_curve_
    assert fitted(augment=(Shift(0.2),)).loss_curve_ == shifted.loss_curve_
    assert fitted(label_smoothing=0.2).loss_curve_ != plain.loss_curve_


def test_the_average_of_the_weights_predicts():
    raw, average = fitted(), fitted(average=EMA(0.9))
    jax.tree.map(np.testing.assert_array_equal, raw.state_.params, average.state_.params)
    kept = raw.predict_proba(IMAGES), average.predict_proba(IMAGES)
    assert not np.allclose(*kept)
    same = fitted(average=EMA(0.9, keep=False)).predict_proba(IMAGES)
    np.testing.assert_array_equal(same, kept[0])


def test_a_network_of_ones_own():
    model = fitted(model=Linear())
    assert model.predict(IMAGES).shape == (200,)
    model.partial_fit(IMAGES, LABELS)
    assert model.n_iter_ == 3
    with pytest.raises(ConfigError, match="layers has changed since the first call"):
        model.set_params(settings=None).partial_fit(IMAGES, LABELS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"augmnt": ()}, "settings: unknown setting augmnt; did you mean 'augment'"),
        ({"epochs": 2}, "settings: epochs is a parameter; give it as epochs="),
        ({"split": "70/30"}, "split cannot be set for arrays: the data is X and y"),
        ("cosine", "settings must be a dict of settings of a recipe (got 'cosine')"),
        ({"label_smoothing": 2}, "label_smoothing must be at least 0 and below 1"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        FlaxCNNClassifier(LINEAR, settings=settings).fit(IMAGES, LABELS)


def test_augmentation_wants_pixels():
    with pytest.raises(ConfigError, match="X must be uint8 images"):
        FlaxCNNClassifier(LINEAR, settings={"augment": (Shift(0.1),)}).fit(IMAGES * 0.5, LABELS)


def test_every_setting_is_a_parameter_taken_or_refused():
    parameters = FlaxCNNClassifier().get_params(deep=False)
    plain = dict.fromkeys(Config.__dataclass_fields__)
    taken = {name: None for name in plain if name not in {*parameters, *ELSEWHERE}}
    assert other_settings(taken, parameters) == taken
    assert set(ELSEWHERE) <= set(plain)
    assert not set(ELSEWHERE) & set(parameters)
