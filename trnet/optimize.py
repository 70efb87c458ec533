"""Training factors at the learning rate of the dense layer that they replace.

A step of the factors moves W = f(core, factors) by −η Σk Jk Jkᵀ ∇W, where each Jk has the norm of
all other parameters. A dense layer's J is the identity, so a rate η that suits it may be too high.
:class:`Trainer` scales the gradients before each step. Then W moves as the dense layer's would,
projected on the tangent space of W's form: never faster. The formulas are those of
:meth:`~trnet.tensor.factorizations.Factorization.scaled_gradients`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np
from mxnet import gluon

from trnet.layers import TRL
from trnet.tensor.backend import mx
from trnet.tensor.scaling import LARGEST_TURN, limited, mapped

# From one gauge of the factors to the next: seldom enough to cost nothing.
_UPDATES_PER_GAUGE = 100


class Trainer(gluon.Trainer):
    """Gluon's trainer, which scales the gradients of tensor regression layers before each step.

    All other parameters, and networks without a TRL, are trained as by Gluon's. Gradients are
    scaled after they are summed over devices and workers, in ``step`` and in ``update``; the arrays
    of ``Parameter.grad()`` keep the gradients that ``backward`` left there. A parameter with
    ``grad_req="null"`` is frozen, and the others then move W as well as they can without it.

    A step is the dense layer's to first order. So one that would turn a factor by more than 0.3
    rad, its momentum included, is shortened: see :func:`trnet.tensor.scaling.limited`. That is
    computed for SGD and NAG; the steps of other optimisers are not those of their gradients. For
    these two, factors are made orthonormal again every hundred updates, and momentum with them. W
    stays the same. Otherwise steps, all orthogonal to a factor, make it grow without end.

    Parameters
    ----------
    params, optimizer, optimizer_params, kvstore, compression_params
        As in Gluon's trainer.
    update_on_kvstore : bool, default False
        Only False: servers would update with gradients that are not scaled.

    Raises
    ------
    ValueError
        For ``update_on_kvstore=True``.
    """

    def __init__(
        self,
        params,
        optimizer,
        optimizer_params: dict | None = None,
        kvstore="device",
        compression_params: dict | None = None,
        update_on_kvstore: bool = False,
    ) -> None:
        if update_on_kvstore:
            raise ValueError(
                "update_on_kvstore: expected False, because gradients are scaled between their sum "
                f"and the update, got {update_on_kvstore!r}"
            )
        super().__init__(
            params,
            optimizer,
            optimizer_params,
            kvstore,
            compression_params,
            update_on_kvstore=False,
        )
        self._scalings: dict[tuple, Scaling] = {}

    def _update(self, ignore_stale_grad: bool = False) -> None:
        # The optimiser reads Parameter._grad. The scaled arrays stand there during the update only:
        # that copies nothing, and leaves what grad_req="add" adds to.
        raw = {}
        try:
            scalings = list(self._current_scalings())
            for scaling in scalings:
                scaled = scaling(self._lasting_rate)
                for parameter, arrays in zip(scaling.trained, scaled):
                    raw[parameter], parameter._grad = parameter._grad, arrays
            super()._update(ignore_stale_grad)
        finally:
            for parameter, arrays in raw.items():
                parameter._grad = arrays
        if self._lasting_rate and self._optimizer.num_update % _UPDATES_PER_GAUGE == 0:
            for scaling in scalings:
                scaling.fix_gauge(self._states)

    def _states(self, parameter: gluon.Parameter) -> list[list[mx.nd.NDArray]]:
        """What the optimiser holds for a parameter, on every device: momentum, a float32 copy."""
        place = self._param2idx[parameter.name]
        return [state_arrays(updater.states[place]) for updater in self._updaters]

    @property
    def _lasting_rate(self) -> float:
        """What a summed gradient is multiplied by in the end, with all the momentum it leaves."""
        optimizer = self._optimizer
        if not isinstance(optimizer, (mx.optimizer.SGD, mx.optimizer.NAG)):
            return 0.0  # whose steps are not limited
        return optimizer.learning_rate * optimizer.rescale_grad / (1 - optimizer.momentum)

    def _current_scalings(self) -> Iterator[Scaling]:
        """One scaling per TRL that has trained factors, which may differ from step to step."""
        trained: dict[TRL, list[gluon.Parameter]] = {}
        for parameter in self._params:
            layer = getattr(parameter, "tensor_layer", None)
            if layer is not None and parameter.grad_req != "null":
                trained.setdefault(layer, []).append(parameter)
        for layer, parameters in trained.items():
            dtype = np.dtype(parameters[0].dtype).name
            key = layer.factorization, dtype, *parameters
            if key not in self._scalings:
                self._scalings[key] = Scaling(layer, parameters, dtype)
            yield self._scalings[key]


def shrink_components(parameters: Iterable[gluon.Parameter], amount: float) -> None:
    """Shrink the components of the weight of every TRL, and to zero at most.

    Components are the terms of a CP weight; in Tucker form and tensor train, the singular values of
    the unfoldings of W whose ranks are the layer's. After each update, by the learning rate times
    λ, that is a step of proximal gradient descent with a penalty: λ times the sum of all of them,
    a group lasso or nuclear norms. Neither depends on how W's scale is shared between factors, or
    on their directions, so nothing can make up for it. What the loss can do without ends at zero,
    and :meth:`trnet.TRL.truncated` removes it.

    Parameters
    ----------
    parameters : iterable of Parameter
        All of a network. Those of other layers stay, and so do TRLs with ``weight_norm`` and those
        that are frozen, also in part.
    amount : float
        How much smaller components get, times the layer's largest ``lr_mult``. Not for float16,
        whose float32 copies in the optimiser would not follow.

    Raises
    ------
    ValueError
        For a TRL of a form that does not say what its components are.
    """
    layers = (getattr(parameter, "tensor_layer", None) for parameter in parameters)
    for layer in filter(None, dict.fromkeys(layers)):
        factors = {name: layer._reg_params[name] for name in layer._factor_names()}
        if any(parameter.grad_req == "null" for parameter in factors.values()):
            continue
        values = _values(factors)
        if values is None:
            continue
        least = amount * max(parameter.lr_mult for parameter in factors.values())
        for name, shrunk in layer.factorization.shrunk(values, least).items():
            if shrunk is not values[name]:
                for array in factors[name].list_data():
                    array[:] = shrunk.astype(array.dtype)


class Scaling:
    """The scaled gradients of one TRL, as a graph that is compiled once.

    Parameters
    ----------
    layer : TRL
        With a known input shape.
    trained : list of Parameter
        Those of its factors that are trained.
    dtype : str
        That of the parameters. float16 is computed in float32, as the optimiser's copies are.
    """

    def __init__(self, layer: TRL, trained: list[gluon.Parameter], dtype: str) -> None:
        factors = {name: layer._reg_params[name] for name in layer._factor_names()}
        names = {parameter: name for name, parameter in factors.items()}
        self.trained, self._factors = trained, factors
        self._form = layer.factorization
        self._is_numpy = isinstance(trained[0].list_grad()[0], mx.np.ndarray)
        self._constants: dict[str, np.ndarray] = {}
        self._on_devices: dict[mx.Context, list[mx.nd.NDArray]] = {}

        wide = "float32" if dtype == "float16" else dtype
        values = {name: mx.sym.var(name) for name in factors}
        gradients = {names[parameter]: mx.sym.var(f"d_{names[parameter]}") for parameter in trained}
        constant = partial(self._constant, wide)
        rate = constant(np.zeros((1, 1)))  # the first one, which changes with the learning rate
        form, wide_values = self._form, _cast(values, dtype, wide)
        wide_gradients = _cast(gradients, dtype, wide)
        scaled = form.scaled_gradients(mx.sym, wide_values, wide_gradients, constant)
        # W is linear in the parameter of its scale, so its step is exact, at any length. A form
        # without a scaling gave its gradients back.
        scale = form.scale_name(len(form.shape) - 1)
        is_scaled = scaled is not wide_gradients
        turning = {name: step for name, step in scaled.items() if name != scale and is_scaled}
        self._turning = [factors[name] for name in turning]
        if turning:
            steps = limited(mx.sym, turning, wide_values, rate, constant, wide)
            scaled = {**scaled, **steps}
        scaled = _cast(scaled, wide, dtype)
        graph = mx.sym.Group([scaled[names[parameter]] for parameter in trained])

        given = [symbol.name for symbol in (*values.values(), *gradients.values())]
        given += self._constants
        self._places = [given.index(name) for name in graph.list_inputs()]
        # One segment for MXNet's engine: to launch these operators takes longer than to run them.
        size = len(graph.get_internals())
        flags = {"static_alloc": True, "static_shape": True, "forward_bulk_size": size}
        # Inputs that MXNet knows to stay are bound once; a segment ends at any other.
        stay = {"data_indices": [], "param_indices": list(range(len(self._places)))}
        self._run = mx.nd.CachedOp(graph, list({**flags, **stay}.items()))

    def _constant(self, dtype: str, array: np.ndarray) -> mx.sym.Symbol:
        name = f"constant{len(self._constants)}"
        self._constants[name] = array.astype(dtype)
        return mx.sym.var(name)

    def __call__(self, rate: float) -> list[list]:
        """The scaled gradient of each trained parameter, on every device, for a learning rate."""
        rate *= max((parameter.lr_mult for parameter in self._turning), default=0) / LARGEST_TURN
        on_devices = []
        for device in self.trained[0].list_ctx():
            arrays = [parameter.data(device) for parameter in self._factors.values()]
            arrays += [parameter.grad(device) for parameter in self.trained]
            constants = self._constants_on(device)
            constants[0][:] = rate**2
            arrays = [array.as_nd_ndarray() for array in arrays] + constants
            outputs = self._run(*(arrays[place] for place in self._places))
            outputs = outputs if isinstance(outputs, list) else [outputs]
            if self._is_numpy:
                outputs = [array.as_np_ndarray() for array in outputs]
            on_devices.append(outputs)
        return [list(arrays) for arrays in zip(*on_devices)]

    def fix_gauge(self, states: Callable[[gluon.Parameter], list[list]]) -> None:
        """Make the factors orthonormal; W stays, and so does the step of W that momentum makes.

        Where a factor is frozen, all stay as they are.

        Parameters
        ----------
        states : callable
            The optimiser's arrays of a parameter, on every device, each of the parameter's shape.
        """
        if not self._turning or len(self.trained) < len(self._factors):
            return
        values = _values(self._factors)
        if values is None:
            return
        maps = self._form.gauge(values)
        for name, parameter in self._factors.items():
            for weight, others in zip(parameter.list_data(), states(parameter)):
                for array in (weight, *others):
                    moved = mapped(array.asnumpy().astype("float64"), maps[name])
                    array[:] = moved.astype(array.dtype)

    def _constants_on(self, device: mx.Context) -> list[mx.nd.NDArray]:
        if device not in self._on_devices:
            self._on_devices[device] = [
                mx.nd.array(array, ctx=device, dtype=array.dtype)
                for array in self._constants.values()
            ]
        return self._on_devices[device]


def state_arrays(state) -> list[mx.nd.NDArray]:
    """The arrays of an optimiser's state: None, an array, or a tuple of such."""
    if isinstance(state, tuple):
        return [array for each in state for array in state_arrays(each)]
    return [] if state is None else [state]


def _values(factors: dict[str, gluon.Parameter]) -> dict[str, np.ndarray] | None:
    """Factors in float64; None if they diverged, which is for the training to report."""
    values = {
        name: parameter.list_data()[0].asnumpy().astype("float64")
        for name, parameter in factors.items()
    }
    is_finite = all(np.isfinite(array).all() for array in values.values())
    return values if is_finite else None


def _cast(symbols: dict[str, mx.sym.Symbol], source: str, dtype: str) -> dict:
    if source == dtype:
        return symbols
    return {name: mx.sym.cast(symbol, dtype=dtype) for name, symbol in symbols.items()}
