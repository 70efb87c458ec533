"""The trained models in results/models: they score as their cards say."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import mxnet as mx
import pytest

from trnet import experiment, inference
from trnet.training.devices import Compute
from trnet.training.evaluation import evaluate

MODELS = sorted((Path(__file__).parent.parent / "results/models").glob("*.onnx"))


def test_there_are_models_of_both_data_sets():
    assert {path.name.split("_vgg")[0] for path in MODELS} == {"mnist", "fashion_mnist"}


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_model_scores_as_its_card_says(path):
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    assert hashlib.sha256(path.read_bytes()).hexdigest() in card
    (top1,) = re.findall(r"\| Top-1 +\| ([\d.]+) %", card)
    config, _, scores = inference.score(path, "latest", [mx.cpu()])
    assert f"{100 * scores.top1:.2f}" == top1

    dataset = experiment.find_dataset(config)
    network = experiment.build(config, dataset)
    network.load_parameters(str(path.with_suffix(".params")))
    source = experiment.load(config, dataset)
    again = evaluate(network, source, dataset.classes, 500, Compute([mx.cpu()]))
    assert again.top1 == pytest.approx(scores.top1, abs=2e-4)
