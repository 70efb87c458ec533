"""Trained weights in files: which are a backbone's, and which dense layers its head has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from mxnet.base import MXNetError
from mxnet.gluon import HybridBlock, Parameter, nn

from trnet.errors import lines_of
from trnet.models.backbones import BACKBONES, Backbone
from trnet.models.head_removal import LINEAR, POOLING
from trnet.models.params_format import check_layout
from trnet.tensor.backend import mx, tensorly_scope
from trnet.tensor.factorizations import FACTORIZATIONS, Rank

Arrays = Mapping[str, mx.nd.NDArray]
Layer = tuple[mx.nd.NDArray, "mx.nd.NDArray | None"]  # weight (units, inputs), and bias

_FLOATS = (np.float16, np.float32, np.float64)
_LINEAR_OR_PASSIVE = (*LINEAR, *POOLING, nn.Dropout, nn.Flatten)


def read_weights(backbone: str, source: str | bool) -> Arrays:
    """Parameters by name, of a ``.params`` file, or for True of GluonCV's store.

    Raises
    ------
    ValueError
        For a file that is missing or holds no parameters, and where the store gives none.
    """
    return _from_store(backbone) if source is True else _read(Path(source))


def _from_store(name: str) -> Arrays:
    """Parameters of a network in GluonCV's store, downloaded unless they are already here."""
    if name in BACKBONES:
        raise ValueError(f"GluonCV's store has no {name}; use a .params file")
    from gluoncv.model_zoo import get_model

    try:
        network = get_model(name, pretrained=True)
    except Exception as error:  # downloading, unzipping and the store's table raise many kinds
        reason = lines_of(error)[-1]
        raise ValueError(
            f"GluonCV's store gives no weights of {name} ({reason}); use a .params file"
        ) from None
    return {name: p.data() for name, p in network._collect_params_with_prefix().items()}


def _read(path: Path) -> Arrays:
    if not path.is_file():
        raise ValueError("there is no such file")
    try:
        check_layout(path)
        arrays = mx.nd.load(str(path))
    except (ValueError, OSError, MXNetError) as error:
        reason = lines_of(error)[-1]
        raise ValueError(f"expected a complete .params file: {reason}") from None
    for name, array in arrays.items():
        if array.dtype in _FLOATS and not mx.nd.all_finite(array).asscalar():
            raise ValueError(f"expected numbers that are finite, got others in {name}")
    return arrays


def trained_parts(
    donor: Backbone, features: HybridBlock, arrays: Arrays
) -> tuple[dict[str, Parameter], list[Layer], bool]:
    """Parameters of ``features`` by their names in a file, and the trained layers of its head.

    The last says whether these layers are all that the head consists of.
    """
    own = features._collect_params_with_prefix()
    ours = {f"features.{name}": parameter for name, parameter in own.items()}
    theirs = _named_by_gluoncv(donor, own)
    names = max(ours, theirs, key=lambda names: len(names.keys() & arrays.keys()))
    is_linear = all(isinstance(block, _LINEAR_OR_PASSIVE) for block in donor.head)
    if names is ours:
        # Heads of ours have no other layers; one with a convolution is the network's own.
        is_own = any(name.startswith("output.") and a.ndim == 4 for name, a in arrays.items())
        return names, _layers_of_ours(arrays), is_linear or not is_own
    return names, _layers_by_gluoncv(donor, arrays), is_linear


def _named_by_gluoncv(donor: Backbone, features: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """The backbone's parameters by the names that GluonCV's whole network has for them."""
    places = {p: name for name, p in donor.features._collect_params_with_prefix().items()}
    return {name: features[places[p]] for name, p in donor.names.items() if p in places}


def _layers_by_gluoncv(donor: Backbone, arrays: Arrays) -> list[Layer]:
    """Trained dense layers and 1×1 convolutions of GluonCV's head, in order."""
    names = {parameter: name for name, parameter in donor.names.items()}
    linear = [block for block in donor.head if isinstance(block, LINEAR)]
    if not all(names[block.weight] in arrays for block in linear):
        return []
    return [
        (_matrix(arrays[names[b.weight]]), None if b.bias is None else arrays.get(names[b.bias]))
        for b in linear
    ]


def _matrix(weight: mx.nd.NDArray) -> mx.nd.NDArray:
    """A layer's matrix; of a 1×1 convolution (units, inputs, 1, 1) -> (units, inputs)."""
    return weight.reshape((weight.shape[0], -1))


def _layers_of_ours(arrays: Arrays) -> list[Layer]:
    """Trained layers of a :class:`Network`'s head that consists of dense ones only, in order."""
    head = [name.split(".") for name in arrays if name.startswith("output.")]
    if not all(
        len(parts) == 3 and parts[1].isdecimal() and parts[2] in ("weight", "bias")
        for parts in head
    ):
        return []  # after a TCL, dense layers have learnt from another input
    places = sorted({int(place) for _, place, _ in head})
    return [(_matrix(arrays[f"output.{i}.weight"]), arrays.get(f"output.{i}.bias")) for i in places]


def rank_of_trl(path: Path, factorization: str) -> Rank | None:
    """The rank of a :class:`Network`'s trained TRL, by the shapes in its file.

    None for a factorisation that does not tell it by shapes.

    Raises
    ------
    ValueError
        For a file that cannot be read, or that has no such TRL.
    """
    arrays = _read(path)
    names = FACTORIZATIONS[factorization].parameter_names(n_modes=3)
    ends = [n for n in arrays if n.startswith("output.") and n.endswith(f".{names[-1]}")]
    if len(ends) != 1:
        raise ValueError(f"expected a TRL with {', '.join(names)}")
    place = ends[0].removesuffix(names[-1])
    form = FACTORIZATIONS[factorization].of_shapes([arrays[place + name].shape for name in names])
    return None if form is None else form.rank


def layer_of_trl(arrays: Arrays) -> list[Layer]:
    """The dense layer that a :class:`Network`'s trained TRL is equal to, if it has such a head."""
    head = {n.removeprefix("output."): a for n, a in arrays.items() if n.startswith("output.")}
    for form in FACTORIZATIONS.values():
        names = form.parameter_names(n_modes=3)
        if head.keys() - {"bias"} != set(names):
            continue
        made = form.of_shapes([head[name].shape for name in names])
        if made is not None:
            with tensorly_scope() as tl:
                factors = {name: head[name].astype("float32").as_np_ndarray() for name in names}
                weight = made.reconstruct(tl, factors).reshape((-1, made.shape[-1])).T
            return [(weight.as_nd_ndarray(), head.get("bias"))]
    return []
