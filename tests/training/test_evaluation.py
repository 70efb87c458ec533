"""Scores: every image counts once, however it is batched and shared."""

from dataclasses import replace

import mxnet as mx
import numpy as np
from training.helpers import CPU, small_network

from trnet.training import loop
from trnet.training.devices import Compute
from trnet.training.distributed import Workers
from trnet.training.evaluation import Scores, evaluate


def test_evaluation_counts_every_image_once(blobs):
    network = small_network()
    loop.initialize(network, (1, 4, 4), 0, CPU)
    batches = list(blobs.validation(13))
    scores = network(batches[0][0]).asnumpy()
    labels = batches[0][1].asnumpy().astype(int)
    logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    for batch_size in (1, 4, 13, 50):
        for contexts in (CPU.devices, [mx.cpu(0), mx.cpu(1)]):
            network.collect_params().reset_ctx(contexts)
            found = evaluate(network, blobs, 3, batch_size, Compute(contexts))
            assert found.top1 == (scores.argmax(1) == labels).mean()
            assert found.top5 == 1.0
            np.testing.assert_allclose(found.loss, -logs[np.arange(13), labels].mean(), rtol=1e-5)


def test_a_worker_without_images_gets_the_others_scores(blobs):
    class Second(Workers):
        def sum(self, values):
            return np.add(values, [3, 4, 2.0, 4])  # the first's hits, loss and images

    network = small_network()
    loop.initialize(network, (1, 4, 4), 0, CPU)
    second = Compute(CPU.devices, workers=Second(1, 2))
    empty = replace(blobs, validation=lambda batch_size: iter(()))
    assert evaluate(network, empty, 3, 4, second) == Scores(0.75, 1.0, 0.5)
