"""A form that is registered from outside, by one class: layers, training, table and plot."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import extension.low_rank as low_rank
import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

from trnet import TRL
from trnet.tensor.factorizations import FACTORIZATIONS

HERE = Path(__file__).parent
BASE = """
plugins: [low_rank]
dataset: {name: mnist, samples: 200, augment: false}
model: {backbone: small_vgg2}
train:
  epochs: 1
  batch_size: 50
  learning_rate: 0.02
  schedule: {type: cosine}
"""
EXPERIMENTS = {
    "dense": "model: {head: {type: dense, pooling: true}}",
    "tucker": "baseline: dense\nmodel: {head: {type: trl, rank: [4, 1, 1, 4]}}",
    "matrix": "baseline: dense\nmodel: {head: {type: trl, factorization: low_rank, rank: 2}}",
}


@pytest.fixture
def form():
    assert FACTORIZATIONS["low_rank"] is low_rank.LowRank
    return "low_rank"


@pytest.mark.parametrize(
    "implementation, hybridized", [("fused", False), ("fused", True), ("tensorly", False)]
)
def test_a_layer_of_the_form(form, implementation, hybridized):
    layer = TRL(3, 2, (4, 5), form, implementation=implementation, use_bias=False, dtype="float64")
    layer.initialize()
    layer.hybridize(hybridized)
    x = mx.nd.array(np.random.standard_normal((7, 4, 5)), dtype="float64")
    with autograd.record():
        y = layer(x)
    y.backward()
    left, right = (p.data().asnumpy() for p in layer.collect_params().values())
    expected = x.asnumpy().reshape(7, 20) @ left @ right.T
    np.testing.assert_allclose(y.asnumpy(), expected)
    gradient = layer.left.grad().asnumpy()
    ones = np.ones((7, 3))
    np.testing.assert_allclose(gradient, x.asnumpy().reshape(7, 20).T @ ones @ right)


def test_a_config_trains_tabulates_and_plots_the_form(tmp_path):
    configs = tmp_path / "configs" / "toy"
    configs.mkdir(parents=True)
    (configs / "_base.yaml").write_text(BASE)
    for name, text in EXPERIMENTS.items():
        (configs / f"{name}.yaml").write_text(f"extends: _base.yaml\nname: {name}\n{text}\n")
    paths = [HERE, HERE.parents[1], os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(p) for p in paths if str(p))}
    command = [sys.executable, "-W", "ignore", "-m", "trnet", "reproduce", str(configs)]
    done = subprocess.run(
        [*command, "--seeds", "0", "--jobs", "2"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "results/toy/table.csv").open() as file:
        rows = {row["experiment"]: row for row in csv.DictReader(file)}
    assert rows["matrix"]["head"] == "TRL, low-rank matrix" and rows["matrix"]["rank"] == "2"
    assert int(rows["matrix"]["head_weights"]) == 2 * (32 * 7 * 7 + 10)
    assert float(rows["matrix"]["top1_mean"]) > 0
    assert (tmp_path / "results/toy/rank_vs_accuracy.png").stat().st_size > 10_000


def test_a_rank_of_another_form_is_one_line(tmp_path):
    (tmp_path / "matrix.yaml").write_text(
        f"{BASE}name: matrix\n".replace(
            "small_vgg2}", "small_vgg2, head: {type: trl, factorization: low_rank, rank: [2, 2]}}"
        )
    )
    from trnet.config import load
    from trnet.errors import ConfigError

    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "matrix.yaml")
    message = str(caught.value)
    assert "model.head.rank" in message and "expected an integer" in message
    assert "[2, 2]" in message and "\n" not in message
