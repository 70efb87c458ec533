"""Data sets by name, which a config's ``dataset.name`` refers to.

:data:`DATASETS` is a registry: a plugin, which is a module named in a config's ``plugins``, adds a
data set with an assignment ::

    from trnet.data import DATASETS, DataSet
    from trnet.data.arrays import Part, from_arrays, shift_and_flip

    def load(request):
        train, validation = Part(images, labels), Part(other_images, other_labels)
        return from_arrays(request, train, validation, [0.5], [0.3], shift_and_flip)

    DATASETS["mine"] = DataSet(classes=2, shape=(1, 12, 12), load=load)

``load`` takes a :class:`Request` and gives a :class:`DataSource`;
:func:`~trnet.data.arrays.from_arrays` makes one from arrays in memory. The defaults of
:class:`DataSet` are for such a data set.
"""

from trnet.data.cifar import cifar10, cifar100
from trnet.data.digits import fashion_mnist, mnist
from trnet.data.glyphs import glyphs
from trnet.data.imagenet import imagenet
from trnet.data.source import WHOLE, Batch, DataSet, DataSource, Request, Shard
from trnet.data.synthetic import synthetic

DATASETS: dict[str, DataSet] = {
    "mnist": DataSet(classes=10, shape=(1, 28, 28), load=mnist),
    "fashion_mnist": DataSet(classes=10, shape=(1, 28, 28), load=fashion_mnist),
    "cifar10": DataSet(classes=10, shape=(3, 32, 32), load=cifar10),
    "cifar100": DataSet(classes=100, shape=(3, 32, 32), load=cifar100),
    "glyphs": DataSet(classes=1000, shape=(1, 28, 28), load=glyphs),
    "imagenet": DataSet(
        classes=1000,
        shape=(3, 224, 224),
        load=imagenet,
        takes_size=True,
        takes_samples=False,
        takes_damaged=True,
        in_memory=False,
    ),
    "synthetic": DataSet(
        classes=1000, shape=(3, 224, 224), load=synthetic, takes_size=True, takes_samples=False
    ),
}

__all__ = ["DATASETS", "WHOLE", "Batch", "DataSet", "DataSource", "Request", "Shard"]
