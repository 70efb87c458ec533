"""Trained weights: the trunk loaded, and the head started from the trained one where it can be."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path

from mxnet.base import MXNetError
from mxnet.gluon import HybridBlock, Parameter, nn

from trnet.layers import TCL, TRL
from trnet.models.backbones import BACKBONES, Backbone, make_backbone
from trnet.models.heads import SPATIAL_MODES
from trnet.models.network import Network
from trnet.models.tail import LINEAR, POOLING
from trnet.tensor.backend import mx
from trnet.tensor.factorizations import Tucker

Arrays = Mapping[str, mx.nd.NDArray]
Layer = tuple[mx.nd.NDArray, "mx.nd.NDArray | None"]  # weight (units, inputs), and bias

_LINEAR_OR_PASSIVE = (*LINEAR, *POOLING, nn.Dropout, nn.Flatten)
_AFRESH = "the head starts afresh"
_SHOWN = 3  # of the parameters that do not fit


def load_pretrained(
    network: Network,
    backbone: str,
    source: str | bool,
    image_shape: tuple[int, int, int],
    classes: int,
) -> str:
    """Load trained weights into an initialised network.

    The trunk is loaded as a whole. The head is loaded where the file has the very same; else it
    starts from the trained dense layers: a TRL decomposes the only one there is, and dense layers
    are taken over where their shapes agree. The rest stays as it was initialised.

    Parameters
    ----------
    network : Network
    backbone : str
        What the network was built from; see :func:`~trnet.models.network.build_network`.
    source : str or True
        A ``.params`` file of GluonCV's network or of a :class:`Network` on the same backbone, such
        as a checkpoint's; True for GluonCV's store.
    image_shape : tuple of int
    classes : int

    Returns
    -------
    str
        How the head starts.

    Raises
    ------
    ValueError
        For a file that is missing, holds no parameters or does not fit, naming the parameters.
    """
    try:
        arrays = _from_store(backbone) if source is True else _read(Path(source))
        return _start(network, backbone, arrays, image_shape, classes)
    except ValueError as error:
        raise ValueError(f"got {source!r}: {error}") from None


def _start(
    network: Network,
    backbone: str,
    arrays: Arrays,
    image_shape: tuple[int, int, int],
    classes: int,
) -> str:
    own = network._collect_params_with_prefix()
    if arrays.keys() == own.keys() and not _misfits(own, arrays):
        _assign(own, arrays)
        return "the head is the file's"
    donor = make_backbone(backbone, image_shape, classes)
    trunk = network.features._collect_params_with_prefix()
    ours = {f"features.{name}": parameter for name, parameter in trunk.items()}
    theirs = _named_by_gluoncv(donor, trunk)
    names = max(ours, theirs, key=lambda names: len(names.keys() & arrays.keys()))
    extra = [n for n in arrays if n not in names and n not in donor.names and n[:7] != "output."]
    _refuse(_misfits(names, arrays) + [f"{name} is not known there" for name in extra])
    _assign(names, arrays)
    if names is ours:
        return _start_head(network.output, _layers_of_ours(arrays), is_linear=True)
    layers = _layers_by_gluoncv(donor, arrays)
    is_linear = all(isinstance(block, _LINEAR_OR_PASSIVE) for block in donor.head)
    return _start_head(network.output, layers, is_linear)


def _from_store(name: str) -> Arrays:
    """Parameters of a network in GluonCV's store, downloaded unless they are there."""
    if name in BACKBONES:
        raise ValueError(f"GluonCV's store has no {name}; a .params file would do")
    from gluoncv.model_zoo import get_model

    try:
        network = get_model(name, pretrained=True)
    except Exception as error:  # whatever downloading, unzipping and the store's table raise
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(
            f"GluonCV's store gives no weights of {name} ({reason}); a .params file would do"
        ) from None
    return {name: p.data() for name, p in network._collect_params_with_prefix().items()}


def _read(path: Path) -> Arrays:
    if not path.is_file():
        raise ValueError("there is no such file")
    try:
        arrays = mx.nd.load(str(path))
    except MXNetError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"not a whole .params file: {reason}") from None
    if not isinstance(arrays, dict) or not arrays:
        raise ValueError("holds no parameters by name")
    return arrays


def _named_by_gluoncv(donor: Backbone, trunk: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """The trunk's parameters by the names that GluonCV's whole network has for them."""
    places = {p: name for name, p in donor.trunk._collect_params_with_prefix().items()}
    return {name: trunk[places[p]] for name, p in donor.names.items() if p in places}


def _layers_by_gluoncv(donor: Backbone, arrays: Arrays) -> list[Layer]:
    """Trained dense layers and 1×1 convolutions of GluonCV's head, in order."""
    names = {parameter: name for name, parameter in donor.names.items()}
    linear = [block for block in donor.head if isinstance(block, LINEAR)]
    if not all(names[block.weight] in arrays for block in linear):
        return []
    layers = []
    for block in linear:
        weight = arrays[names[block.weight]]
        bias = None if block.bias is None else arrays.get(names[block.bias])
        layers.append((weight.reshape((weight.shape[0], -1)), bias))
    return layers


def _layers_of_ours(arrays: Arrays) -> list[Layer]:
    """Trained dense layers of a head of ours that has no others, in order."""
    head = [name.split(".") for name in arrays if name.startswith("output.")]
    if any(len(parts) != 3 or parts[2] not in ("weight", "bias") for parts in head):
        return []  # behind a TCL they have learned from something else
    places = sorted({int(place) for _, place, _ in head})
    return [(arrays[f"output.{i}.weight"], arrays.get(f"output.{i}.bias")) for i in places]


def _start_head(head: HybridBlock, layers: list[Layer], is_linear: bool) -> str:
    """Start a head from trained dense layers, and say how.

    ``is_linear`` tells whether a single one is all that the trained head computes.
    """
    if isinstance(head, TRL):
        started = is_linear and len(layers) == 1 and _start_trl(head, *layers[0])
        return "the head decomposes the trained dense layer" if started else _AFRESH
    blocks = list(head._children.values())
    dense = [block for block in blocks if isinstance(block, LINEAR)]
    pairs = list(zip(reversed(dense), reversed(layers)))
    if not any(isinstance(block, TCL) for block in blocks):  # which changes what the first sees
        pairs += zip(dense, layers)
    fitting = {pair[0]: pair[1] for pair in pairs if _same_shapes(pair)}
    for block, (weight, bias) in fitting.items():
        block.weight.set_data(weight.reshape(block.weight.shape))
        if bias is not None:
            block.bias.set_data(bias)
    return f"{len(fitting)} of the head's {len(dense)} dense layers are trained"


def _same_shapes(pair: tuple[HybridBlock, Layer]) -> bool:
    block, (weight, bias) = pair
    units, *inputs = block.weight.shape
    return (units, prod(inputs)) == weight.shape and (block.bias is None) is (bias is None)


def _start_trl(trl: TRL, weight: mx.nd.NDArray, bias: mx.nd.NDArray | None) -> bool:
    """Decompose a dense layer on the flattened or, for Tucker, on the pooled activation tensor."""
    units, inputs = weight.shape
    is_flattened = inputs == prod(trl.in_shape)
    is_pooled = inputs == trl.in_shape[0] and isinstance(trl.factorization, Tucker)
    if units != trl.units or not (is_flattened or is_pooled):
        return False
    dense = nn.Dense(units, use_bias=bias is not None, in_units=inputs, prefix="trained_")
    dense.initialize()
    dense.weight.set_data(weight)
    if bias is not None:
        dense.bias.set_data(bias)
    trl.init_from_dense(dense, pooled_modes=() if is_flattened else SPATIAL_MODES)
    return True


def _misfits(parameters: Mapping[str, Parameter], arrays: Arrays) -> list[str]:
    """What of some parameters is not in a file, or has another shape there."""
    missing = [f"{name} is missing" for name in parameters if name not in arrays]
    return missing + [
        f"{name} is {arrays[name].shape}, and {parameter.shape} would fit"
        for name, parameter in parameters.items()
        if name in arrays and arrays[name].shape != parameter.shape
    ]


def _refuse(misfits: list[str]) -> None:
    if misfits:
        more = f"; {len(misfits) - _SHOWN} more" if len(misfits) > _SHOWN else ""
        raise ValueError(f"does not fit the network: {'; '.join(misfits[:_SHOWN])}{more}")


def _assign(parameters: Mapping[str, Parameter], arrays: Arrays) -> None:
    for name, parameter in parameters.items():
        parameter.set_data(arrays[name].astype(parameter.dtype))
