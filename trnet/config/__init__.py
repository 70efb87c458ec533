"""Configs: YAML files on common bases, checked before anything runs.

:func:`load` gives a :class:`Config`, or raises one :class:`~trnet.errors.ConfigError` of one line.
Imports no MXNet.
"""

from trnet.config.load import dump, load, load_baseline, load_suite, parse
from trnet.config.merge import parse_yaml
from trnet.config.schema import (
    Config,
    CosineSchedule,
    Dataset,
    DenseHead,
    Fit,
    Head,
    Model,
    StepSchedule,
    TCLHead,
    Train,
    TRLHead,
    Tune,
)

__all__ = [
    "Config",
    "CosineSchedule",
    "Dataset",
    "DenseHead",
    "Fit",
    "Head",
    "Model",
    "StepSchedule",
    "TCLHead",
    "TRLHead",
    "Train",
    "Tune",
    "dump",
    "load",
    "load_baseline",
    "load_suite",
    "parse",
    "parse_yaml",
]
