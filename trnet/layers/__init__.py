"""Tensor contraction and tensor regression layers for Gluon."""

import trnet.tensor.backend  # noqa: F401  first, as it explains a missing MXNet
from trnet.layers.folding import fold
from trnet.layers.tcl import TCL
from trnet.layers.trl import TRL

__all__ = ["TCL", "TRL", "fold"]
