"""Low-rank forms of a weight tensor (I1, …, IN, O), by name. One form, one module.

Adding a form is one class, registered under its name::

    FACTORIZATIONS["low_rank"] = LowRank

Layers, configs, tables and plots ask the class. Importing a form imports no MXNet.
"""

from trnet.tensor.factorizations.base import (
    Factorization,
    Rank,
    are_positive,
    check_rank,
    is_integer,
    is_positive,
    is_savings,
)
from trnet.tensor.factorizations.cp import CP
from trnet.tensor.factorizations.tensor_train import TensorTrain
from trnet.tensor.factorizations.tucker import Tucker

DEFAULT = "tucker"  # the form of the published tensor regression layer

FACTORIZATIONS: dict[str, type[Factorization]] = {
    "tucker": Tucker,
    "cp": CP,
    "tensor_train": TensorTrain,
}

__all__ = [
    "CP",
    "DEFAULT",
    "FACTORIZATIONS",
    "Factorization",
    "Rank",
    "TensorTrain",
    "Tucker",
    "are_positive",
    "check_rank",
    "is_integer",
    "is_positive",
    "is_savings",
]
