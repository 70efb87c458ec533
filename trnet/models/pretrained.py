"""Trained weights: loads the backbone, and starts the head from the trained one if possible."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, prod
from typing import Optional

import numpy as np
from mxnet.gluon import HybridBlock, Parameter, nn

from trnet.layers import TCL, TRL
from trnet.models.head_removal import LINEAR
from trnet.models.heads import SPATIAL_MODES
from trnet.models.network import Network
from trnet.models.shapes import output_shape
from trnet.models.weights import Arrays, Layer, layer_of_trl, read_weights, trained_parts
from trnet.models.zoo import make_backbone
from trnet.savings import most_weights
from trnet.tensor.backend import mx
from trnet.tensor.factorizations import FACTORIZATIONS, Factorization, Rank
from trnet.tensor.fitting import Fit

Data = Callable[[], Optional[list[mx.nd.NDArray]]]

_DECOMPOSED = "the head decomposes the trained layer"
_SHOWN = 3  # parameters of another shape, in a message


@dataclass(frozen=True)
class Start:
    """How a head starts.

    Attributes
    ----------
    said : str
        In words.
    is_whole : bool
        Whether all of it is trained, exactly or as closely as its rank allows.
    fit : Fit or None
        How close it is, where a trained dense layer was decomposed.
    """

    said: str
    is_whole: bool = False
    fit: Fit | None = None

    def __str__(self) -> str:
        if self.fit is None:
            return self.said
        found = f"{self.said}; its weight is off by {100 * self.fit.weight_error:.2f} %"
        if isnan(self.fit.output_error):
            return found
        return f"{found}, its outputs by {100 * self.fit.output_error:.2f} %"


_UNTRAINED = Start("the head starts untrained")


def load_pretrained(
    network: Network,
    backbone: str,
    source: str | bool,
    image_shape: tuple[int, int, int],
    classes: int,
    images: Callable[[], Sequence[mx.nd.NDArray]] | None = None,
    weigh_classes: bool = False,
) -> Start:
    """Load trained weights into an initialised network.

    The backbone is loaded completely. The head is loaded if the file has exactly the same one. Else
    it starts from the trained dense layers, or from the one that a trained TRL is equal to: a TRL
    decomposes the layer if there is only one, a TCL without batch normalisation and the dense layer
    after it decompose the first one, and dense layers are copied if their shapes agree. The rest
    stays as it was initialised.

    Parameters
    ----------
    network : Network
    backbone : str
        The name that the network was built from; see :func:`~trnet.models.network.build_network`.
    source : str or True
        A ``.params`` file of GluonCV's network or of a :class:`Network` on the same backbone, such
        as a checkpoint's; True for GluonCV's store.
    image_shape : tuple of int
    classes : int
    images : callable, optional
        Gives batches on the device of the network, for which a decomposition is to give the same
        outputs, as in :meth:`trnet.TRL.init_from_dense`. Called only where one is made.
    weigh_classes : bool
        As there, if the decomposed layer gives the class scores.

    Returns
    -------
    Start
        How the head starts.

    Raises
    ------
    ValueError
        For a file that is missing, holds no parameters or is not of this network; the message names
        the parameters.
    """
    try:
        arrays = read_weights(backbone, source)
        own = network._collect_params_with_prefix()
        if arrays.keys() == own.keys() and not _differences(own, arrays):
            _assign(own, arrays)
            return Start("the head is the file's", is_whole=True)
        trained, is_linear = _load_backbone(network, backbone, arrays, image_shape, classes)

        def data() -> Optional[list[mx.nd.NDArray]]:
            return None if images is None else list(network.head_inputs(images()))

        return _start_head(network.output, trained, is_linear, data, weigh_classes)
    except ValueError as error:
        raise ValueError(f"got {source!r}: {error}") from None


def rank_by_savings(
    backbone: str,
    source: str | bool,
    image_shape: tuple[int, int, int],
    classes: int,
    factorization: str,
    savings: float,
) -> Rank | None:
    """The rank that loses least of a trained dense layer, for some space savings.

    Parameters
    ----------
    backbone, source, image_shape, classes
        As in :func:`load_pretrained`.
    factorization : str
        Of the TRL that is to decompose the layer.
    savings : float
        The share of the layer's weights to save.

    Returns
    -------
    Rank or None
        None if the file has several dense layers, or one that such a TRL cannot decompose.

    Raises
    ------
    ValueError
        For a file that cannot be read, whose head is a TCL or TRL already, or savings that no rank
        has.
    """
    form, donor = FACTORIZATIONS[factorization], make_backbone(backbone, image_shape, classes)
    in_shape = output_shape(donor.features, image_shape)
    try:
        arrays = read_weights(backbone, source)
        _, layers, is_linear = trained_parts(donor, donor.features, arrays)
        if is_linear and not layers and any(name.startswith("output.") for name in arrays):
            raise ValueError("expected a dense head, got another one; give the rank itself")
        if not is_linear or len(layers) != 1:
            return None
        weight = layers[0][0].asnumpy()
        is_pooled = form.supports_pooling and weight.shape == (classes, in_shape[0])
        if not is_pooled and weight.shape != (classes, prod(in_shape)):
            return None
        kept = in_shape[:1] if is_pooled else in_shape
        rank_of = trl_truncation(form, weight.T.reshape((*kept, classes)), in_shape)
        return rank_of(most_weights(savings, weight.size))
    except ValueError as error:
        raise ValueError(f"savings of {savings:g}, of the weights in {source!r}: {error}") from None


def trl_truncation(
    form: type[Factorization], weight: np.ndarray, in_shape: tuple[int, ...]
) -> Callable[[int], Rank]:
    """For at most some parameters, the rank of a TRL that loses least of a dense layer's weight.

    Parameters
    ----------
    form : type
        The TRL's factorisation.
    weight : array
        (I1, …, IN, O), or of a head that pools (I1, O).
    in_shape : tuple of int
        (I1, …, IN).
    """
    pooled = len(in_shape) + 1 - weight.ndim

    def whole(rank: Rank) -> Rank:
        return (rank[0], *(1,) * pooled, rank[1]) if pooled else rank

    def size(rank: Rank) -> int:
        return form((*in_shape, weight.shape[-1]), whole(rank)).size

    rank_of = form.truncation(weight, size)
    return lambda most: whole(rank_of(most))


def _load_backbone(
    network: Network,
    backbone: str,
    arrays: Arrays,
    image_shape: tuple[int, int, int],
    classes: int,
) -> tuple[list[Layer], bool]:
    """Load the backbone; returns the trained layers of the head, and whether they are all of it."""
    donor = make_backbone(backbone, image_shape, classes)
    names, layers, is_linear = trained_parts(donor, network.features, arrays)
    layers = layers or layer_of_trl(arrays)
    extra = [n for n in arrays if n not in names and n not in donor.names and n[:7] != "output."]
    _refuse(_differences(names, arrays) + [f"got an unknown {name}" for name in extra])
    _assign(names, arrays)
    return layers, is_linear


def _start_head(
    head: HybridBlock, layers: list[Layer], is_linear: bool, data: Data, weigh_classes: bool
) -> Start:
    """Start a head from trained dense layers; returns how it starts.

    ``is_linear`` says that a trained head of one dense layer computes nothing else.
    """
    if isinstance(head, TRL):
        if not (is_linear and len(layers) == 1):
            return _UNTRAINED
        fit = _start_trl(head, _as_dense(*layers[0]), data, weigh_classes)
        return _UNTRAINED if fit is None else Start(_DECOMPOSED, True, fit)
    blocks = list(head._children.values())
    dense = [block for block in blocks if isinstance(block, LINEAR)]
    if not dense:
        return _UNTRAINED
    pairs, fit = list(zip(reversed(dense), reversed(layers))), None
    tcls = [block for block in blocks if isinstance(block, TCL)]
    if blocks[:1] == tcls and is_linear and len(layers) == len(dense):
        fit = _start_tcl(blocks[0], dense[0], _as_dense(*layers[0]), data)
    if fit is not None:
        pairs = pairs[:-1]
    elif not tcls:  # which changes the first one's input
        pairs += zip(dense, layers)
    copied = {block: layer for block, layer in pairs if _is_same_shape(block, layer)}
    for block, (weight, bias) in copied.items():
        block.weight.set_data(weight.reshape(block.weight.shape))
        if bias is not None:
            block.bias.set_data(bias)
    n_trained = len(copied) + (fit is not None)
    said = f"{n_trained} of the head's {len(dense)} dense layers are trained"
    if fit is not None:
        said = f"{_DECOMPOSED} by the TCL and the one after it; {said}"
    started = [*dense, *(blocks[:1] if fit is not None else [])]
    others = [block for block in blocks if block not in started and block.collect_params().keys()]
    return Start(said, n_trained == len(dense) and not others, fit)


def _as_dense(weight: mx.nd.NDArray, bias: mx.nd.NDArray | None) -> nn.Dense:
    units, inputs = weight.shape
    dense = nn.Dense(units, use_bias=bias is not None, in_units=inputs, prefix="trained_")
    dense.initialize()
    dense.weight.set_data(weight)
    if bias is not None:
        dense.bias.set_data(bias)
    return dense


def _is_same_shape(block: HybridBlock, layer: Layer) -> bool:
    weight, bias = layer
    units, *inputs = block.weight.shape
    return (units, prod(inputs)) == weight.shape and (block.bias is None) is (bias is None)


def _start_tcl(tcl: TCL, following: nn.Dense, dense: nn.Dense, data: Data) -> Fit | None:
    """Decompose a dense layer on the flattened activations by a TCL and the layer after it."""
    units, inputs = dense.weight.shape
    if inputs != prod(tcl.in_shape) or units != following.weight.shape[0]:
        return None
    return tcl.init_from_dense(dense, following, data())


def _start_trl(trl: TRL, dense: nn.Dense, data: Data, weigh_classes: bool) -> Fit | None:
    """Decompose a dense layer on the flattened or, if supported, on the pooled activations."""
    units, inputs = dense.weight.shape
    is_flattened = inputs == prod(trl.in_shape)
    is_pooled = inputs == trl.in_shape[0] and trl.factorization.supports_pooling
    if units != trl.units or not (is_flattened or is_pooled):
        return None
    pooled_modes = () if is_flattened else SPATIAL_MODES
    return trl.init_from_dense(dense, pooled_modes, data(), weigh_classes)


def _differences(parameters: Mapping[str, Parameter], arrays: Arrays) -> list[str]:
    """The parameters that are missing in a file, or have another shape there."""
    missing = [f"{name} is missing" for name in parameters if name not in arrays]
    return missing + [
        f"expected {name} of shape {parameter.shape}, got {arrays[name].shape}"
        for name, parameter in parameters.items()
        if name in arrays and arrays[name].shape != parameter.shape
    ]


def _refuse(differences: list[str]) -> None:
    if differences:
        more = f"; {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        shown = "; ".join(differences[:_SHOWN])
        raise ValueError(f"the weights of another network: {shown}{more}")


def _assign(parameters: Mapping[str, Parameter], arrays: Arrays) -> None:
    for name, parameter in parameters.items():
        parameter.set_data(arrays[name].astype(parameter.dtype))
