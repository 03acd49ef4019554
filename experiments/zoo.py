"""Networks of papers with a plain recipe for CIFAR-10, to start from.

    flaxcnn experiments list --zoo
    flaxcnn train zoo/resnet-20
    flaxcnn train zoo/wrn-16-4 -s dataset=fashion_mnist -s epochs=20
    flaxcnn train zoo/resnet-50 -s dataset=folder:~/imagenet

The numbers of parameters are those of the papers (a test holds them); the recipe is not: it is one
for all, stochastic gradient descent with momentum and a cosine, and none has been tuned.
"""

from flaxcnn.recipe import zoo
from flaxcnn.recipe.augment import Flip, Shift
from flaxcnn.recipe.catalog import Experiment
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Layer
from flaxcnn.recipe.optimizers import SGD, Adam
from flaxcnn.recipe.resize import Resize
from flaxcnn.recipe.schedules import Cosine

AUGMENT = (Shift(0.125, 0.125), Flip())


def experiment(name: str, title: str, layers: tuple[Layer, ...], **settings: object) -> Experiment:
    """A network with the recipe of all, but for `settings`."""
    common = {
        "optimizer": SGD(momentum=0.9, nesterov=True, weight_decay=5e-4), "learning_rate": 0.1,
        "schedule": Cosine(warmup_epochs=1), "batch_size": 128, "epochs": 30, "augment": AUGMENT,
        "normalize": "per_channel",
    }  # fmt: skip
    config = Config(**{"dataset": "cifar10", "layers": layers, **common, **settings})  # type: ignore[arg-type]
    return Experiment(f"zoo/{name}", title, "", config=config)


ADAM = {"optimizer": Adam(weight_decay=0.05), "learning_rate": 2e-3}
FAST = {
    "optimizer": SGD(momentum=0.85, nesterov=True, weight_decay=1.3304e-3), "learning_rate": 1.5,
    "label_smoothing": 0.2, "batch_size": 1024, "drop_last": True, "epochs": 10,
    "augment": (Shift(0.0625, 0.0625), Flip()),
}  # fmt: skip
EXPERIMENTS: tuple[Experiment, ...] = (
    experiment("resnet-8", "He et al. 2015, 6n + 2 layers", zoo.resnet(8)),
    experiment("resnet-20", "He et al. 2015, 6n + 2 layers", zoo.resnet(20)),
    experiment("resnet-56", "He et al. 2015, 6n + 2 layers", zoo.resnet(56)),
    experiment("preact-resnet-18", "He et al. 2016, 64 to 512 channels", zoo.preact_resnet18()),
    experiment("wrn-16-4", "Zagoruyko and Komodakis 2016", zoo.wide_resnet(16, 4)),
    experiment("densenet-bc-100-12", "Huang et al. 2017", zoo.densenet_bc(100, 12)),
    experiment("pyramidnet-110", "Han et al. 2017, alpha 84", zoo.pyramidnet(110, 84)),
    experiment(
        "pyramidnet-164", "Han et al. 2017, bottlenecks, alpha 270",
        zoo.pyramidnet(164, 270, bottleneck=True),
    ),
    experiment("mobilenet-v2", "Sandler et al. 2018, for 32 pixels", zoo.mobilenet_v2()),
    experiment("shufflenet-v2", "Ma et al. 2018, for 32 pixels", zoo.shufflenet_v2()),
    experiment("convnext-nano", "Liu et al. 2022, for 32 pixels", zoo.convnext(), **ADAM),
    experiment("airbench94", "Jordan 2024, whitening convolution", zoo.airbench(), **FAST),
    experiment(
        "resnet-50", "He et al. 2015, a folder of images at 224 pixels", zoo.resnet50(),
        dataset="folder:imagenet", resize=Resize(224, 224, "random_crop", "center_crop"),
        batch_size=256, epochs=90, augment=(Flip(),), input="stream",
    ),
)  # fmt: skip
