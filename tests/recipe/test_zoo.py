"""Networks of papers, and champions: their parameters, and that each is built as its table says."""

import functools

import jax
import jax.numpy as jnp
import pytest

from flaxcnn.errors import ConfigError
from flaxcnn.model.cnn import CNN
from flaxcnn.recipe import catalog, zoo
from flaxcnn.recipe.data import KNOWN_DATA
from flaxcnn.recipe.layers import check_model, table, totals

SMALL, LARGE = (32, 32, 3), (224, 224, 3)
# Trainable parameters of the authors' code, torchvision, timm or pytorchcv, where papers round.
PAPERS = {
    "ResNet-20 (0.27M)": (zoo.resnet(20), SMALL, 269_722),
    "ResNet-56 (0.85M)": (zoo.resnet(56), SMALL, 853_018),
    # kuangliu/pytorch-cifar's 11,171,146, and the last normalisation, which that leaves out
    "PreAct-ResNet-18": (zoo.preact_resnet18(), SMALL, 11_171_146 + 2 * 512),
    "WRN-16-4 (2.8M)": (zoo.wide_resnet(16, 4), SMALL, 2_748_890),
    "WRN-16-8 (11.0M)": (zoo.wide_resnet(16, 8), SMALL, 10_961_370),
    "WRN-28-10 (36.5M)": (zoo.wide_resnet(28, 10), SMALL, 36_479_194),
    "DenseNet-BC-100-12 (0.8M)": (zoo.densenet_bc(100, 12), SMALL, 769_162),
    "PyramidNet-110, 48 (1.7M)": (zoo.pyramidnet(110, 48), SMALL, 1_772_706),
    "PyramidNet-110, 84 (3.8M)": (zoo.pyramidnet(110, 84), SMALL, 3_904_446),
    "PyramidNet-110, 270 (28.3M)": (zoo.pyramidnet(110, 270), SMALL, 28_485_477),
    "PyramidNet-164, 270 (27.0M)": (zoo.pyramidnet(164, 270, True), SMALL, 27_216_021),
    "MobileNetV2 (3.4M)": (zoo.mobilenet_v2(1000, False), LARGE, 3_504_872),
    "ShuffleNetV2 0.5x (1.4M)": (zoo.shufflenet_v2((48, 96, 192), 1000, False), LARGE, 1_366_792),
    "ShuffleNetV2 1x (2.3M)": (zoo.shufflenet_v2(classes=1000, small=False), LARGE, 2_278_604),
    "ConvNeXt-T (28.6M)": (
        zoo.convnext((96, 192, 384, 768), (3, 3, 9, 3), 1000, 4), LARGE, 28_589_128,
    ),
    "ConvNeXt-nano (15.6M)": (zoo.convnext(classes=1000, patch=4), LARGE, 15_593_560),
    "ResNet-50 (25.6M)": (zoo.resnet50(), LARGE, 25_557_032),
    # by hand: the bias of 24 filters, six convolutions, a bias for each of their channels, the head
    "airbench94 (1.97M)": (
        zoo.airbench(), SMALL,
        24 + 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256) + 2 * (64 + 256 + 256) + 2560,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAPERS)
def test_parameters_are_those_of_the_paper(name):
    layers, shape, expected = PAPERS[name]
    assert totals(table(layers, shape))["trainable_params"] == expected


DEEP = {  # traced for some seconds each
    "zoo/pyramidnet-110", "zoo/pyramidnet-164", "best/fashion-800k", "best/cifar10-300k",
    "best/cifar10-1.25m", "best/cifar10-2.4m",
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in DEEP else name
     for name in sorted(catalog.zoo() | catalog.champions())],
)  # fmt: skip
def test_networks_are_what_their_tables_say(name):
    """The same parameters, by name, and logits for every class; no weight is computed."""
    experiment = catalog.find(name)
    summary = catalog.summary(experiment)
    layers = experiment.config.layers
    shape = KNOWN_DATA.get(experiment.config.dataset, KNOWN_DATA["cifar10"]).shape
    model, image = CNN(layers), jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    make = functools.partial(model.init, train=False)
    variables = jax.eval_shape(make, jax.random.key(0), image)
    rows = {row.name: row for row in table(layers, shape) if row.params}
    assert set(variables["params"]) == set(rows)
    for part, own in variables["params"].items():
        row = rows[part]
        moving = jax.tree.leaves(variables.get("batch_stats", {}).get(part, {}))
        sizes = sum(leaf.size for leaf in jax.tree.leaves(own)) + sum(x.size for x in moving)
        assert sizes == row.params, part
    assert summary["params"] == totals(list(rows.values()))["params"]


@pytest.mark.parametrize("layers", [
    zoo.resnet(8), zoo.densenet_bc(10), zoo.mobilenet_v2(), zoo.shufflenet_v2(), zoo.convnext(),
], ids=["resnet", "densenet", "mobilenet", "shufflenet", "convnext"])  # fmt: skip
def test_small_images_of_one_channel_fit_too(layers):
    check_model(layers, (28, 28, 1), 10)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: zoo.resnet(19), r"resnet: depth must be 6 \* n \+ 2 \(got 19\)"),
        (lambda: zoo.wide_resnet(4), r"wide_resnet: depth must be 6 \* n \+ 4 \(got 4\)"),
        (lambda: catalog.find("zoo/resnet-21"), "did you mean 'zoo/resnet-20'"),
    ],
)
def test_networks_that_cannot_be(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
