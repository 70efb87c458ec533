"""Tensor contraction layers and tensor regression layers for MXNet Gluon."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from trnet.before_mxnet import BeforeMXNet

if TYPE_CHECKING:
    from trnet.export import export_onnx
    from trnet.layers import TCL, TRL, fold
    from trnet.optimize import Trainer

sys.meta_path.insert(0, BeforeMXNet())

__version__ = "0.1.0"
__all__ = ["TCL", "TRL", "Trainer", "__version__", "export_onnx", "fold"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str):
    """Import MXNet with the first layer asked for, so that configs and tables need not wait."""
    if name in ("TCL", "TRL", "fold"):
        from trnet import layers

        return getattr(layers, name)
    if name == "Trainer":
        from trnet.optimize import Trainer

        return Trainer
    if name == "export_onnx":
        from trnet.export import export_onnx

        return export_onnx
    raise AttributeError(f"module 'trnet' has no attribute {name!r}")
