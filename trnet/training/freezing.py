"""Parts of a network that are not trained: its backbone, or parameters by their names."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Union

from mxnet.gluon import Block, HybridBlock, nn

_BACKBONE = ("features.*",)


def freeze(network: HybridBlock, names: Union[str, Sequence[str]]) -> None:
    """Freeze parameters of a network: they get no gradients.

    Batch normalisation normalises by its running statistics, which then stay as they are, if its γ
    and β are among them, or these statistics.

    Parameters
    ----------
    network : HybridBlock
        With the backbone in ``features``, as :func:`trnet.models.attach_head` builds it.
    names : str or sequence of str
        "backbone", or patterns (``fnmatch``) of the names that ``save_parameters`` gives:
        ``features.0.*``.

    Raises
    ------
    ValueError
        For a pattern that no parameter matches, and if nothing is left to be trained.
    """
    parameters = network._collect_params_with_prefix()
    patterns = _BACKBONE if names == "backbone" else names
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in parameters):
            raise ValueError(
                f"expected a pattern of parameters' names, such as {next(iter(parameters))}, "
                f"got {pattern!r}, which none matches"
            )
    frozen = {name for name in parameters if any(fnmatchcase(name, p) for p in patterns)}
    for name in frozen:
        parameters[name].grad_req = "null"
    if all(parameter.grad_req == "null" for parameter in parameters.values()):
        raise ValueError(f"expected something left to train, got {names!r}, which freezes all")
    frozen_parameters = {id(parameters[name]) for name in frozen}

    def fix_statistics(block: Block) -> None:
        if isinstance(block, nn.BatchNorm):
            own = {name for name, p in block._reg_params.items() if id(p) in frozen_parameters}
            if own >= {"gamma", "beta"} or own & {"running_mean", "running_var"}:
                block._kwargs["use_global_stats"] = True

    network.apply(fix_statistics)
