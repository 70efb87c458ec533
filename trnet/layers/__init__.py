"""Tensor contraction and tensor regression layers for Gluon."""

from trnet.layers.tcl import TCL
from trnet.layers.trl import TRL

__all__ = ["TCL", "TRL"]
