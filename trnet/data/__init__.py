"""Data sets by name. Adding one is a function and a line in :data:`DATASETS`."""

from trnet.data.cifar import cifar10, cifar100
from trnet.data.digits import fashion_mnist, mnist
from trnet.data.imagenet import imagenet
from trnet.data.source import WHOLE, Batch, DataSet, DataSource, Request, Shard
from trnet.data.synthetic import synthetic

DATASETS: dict[str, DataSet] = {
    "mnist": DataSet(classes=10, shape=(1, 28, 28), load=mnist),
    "fashion_mnist": DataSet(classes=10, shape=(1, 28, 28), load=fashion_mnist),
    "cifar10": DataSet(classes=10, shape=(3, 32, 32), load=cifar10),
    "cifar100": DataSet(classes=100, shape=(3, 32, 32), load=cifar100),
    "imagenet": DataSet(classes=1000, shape=(3, 224, 224), load=imagenet, adjustable=True),
    "synthetic": DataSet(classes=1000, shape=(3, 224, 224), load=synthetic, adjustable=True),
}

__all__ = ["DATASETS", "WHOLE", "Batch", "DataSet", "DataSource", "Request", "Shard"]
