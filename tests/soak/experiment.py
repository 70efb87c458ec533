"""A small experiment for the trials: dropout, batch normalisation, momentum, a TRL, checkpoints."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from trnet.data import DATASETS, DataSet, Request
from trnet.data.arrays import Part, from_arrays, shift_and_flip

CONFIG = """
name: small
plugins: [soak.experiment]
dataset: {name: soak}
model: {backbone: small_vgg2, head: {type: trl, rank: [6, 2, 2, 4], dropout: 0.1}}
train:
  epochs: 3
  batch_size: 20
  learning_rate: 0.02
  checkpoint_minutes: 0.0001
  schedule: {type: cosine}
"""
TIMES = ("seconds", "images_per_second", "wall_seconds", "checksum")


def load(request: Request):
    """80 images to train on and 30 to score, of patterns in noise."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 200, (4, 1, 28, 28))

    def part(n: int) -> Part:
        labels = np.arange(n) % 4
        noise = rng.integers(0, 56, (n, 1, 28, 28))
        return Part((patterns[labels] + noise).astype("uint8"), labels)

    return from_arrays(request, part(80), part(30), [0.5], [0.3], shift_and_flip)


DATASETS["soak"] = DataSet(classes=4, shape=(1, 28, 28), load=load)


def write_config(folder: Path) -> Path:
    """Write the experiment's config, as the only one of a suite."""
    path = folder / "configs/soak/small.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(CONFIG)
    return path


def run_folder(runs: Path) -> Path:
    """Where the experiment is trained."""
    return runs / "soak/small/seed0"


def outcome(runs: Path) -> dict[str, object]:
    """All that a training leaves, to the bit, without times."""
    folder = run_folder(runs)
    left = {}
    for path in sorted(folder.glob("checkpoints/epoch-000?/*.params")):
        left[str(path.relative_to(folder))] = path.read_bytes()
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    left["metrics"] = [_timeless(json.loads(line)) for line in lines]
    left["result"] = _timeless(json.loads((folder / "result.json").read_text()))
    return left


def differences(one: dict[str, object], other: dict[str, object]) -> list[str]:
    """What two trainings left in other bits, by name; numbers with their values."""
    own, others = _leaves(one), _leaves(other)
    return [
        f"{name}: {own.get(name)}, not {others.get(name)}"
        for name in {**own, **others}
        if own.get(name) != others.get(name)
    ]


def _leaves(values: object, name: str = "") -> dict[str, object]:
    if isinstance(values, (dict, list)):
        inside = values.items() if isinstance(values, dict) else enumerate(values)
        found = (_leaves(value, f"{name}.{key}".lstrip(".")) for key, value in inside)
        return {key: value for leaves in found for key, value in leaves.items()}
    is_file = isinstance(values, bytes)
    return {name: hashlib.sha256(values).hexdigest()[:8] if is_file else values}


def _timeless(values: dict) -> dict:
    return {key: value for key, value in values.items() if key not in TIMES}
