#!/usr/bin/env python
"""Heads on sequences, (channels, time): they tell by two Japanese vowels who speaks.

pip install --no-deps -r examples/requirements.txt   # aeon ships the recordings
python examples/sequences.py                         # trains 7 heads from 5 seeds, prints a table

Nine men: 270 utterances to train on, 370 to test, each of 12 cepstral coefficients over 7 to 29
frames. Kudo, Toyama and Shimbo, *Multidimensional Curve Classification Using Passing-Through
Regions*, Pattern Recognition Letters 20 (1999).
"""

from __future__ import annotations

import argparse

import numpy as np
from heads import compare, data_folder
from mxnet import gluon
from mxnet.gluon import nn

from trnet import TCL, TRL

SPEAKERS, FRAMES = 9, 29


def main() -> None:
    """Parse the arguments, train, and print the table."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--epochs", type=int, default=60)
    arguments.add_argument("--seeds", type=int, default=5)
    options = arguments.parse_args()
    if options.seeds < 1:
        arguments.error(f"--seeds: expected an integer ≥ 1, got {options.seeds}")
    heads = {
        "flattened, dense": lambda: nn.Dense(SPEAKERS),
        "pooled, dense": pooled,
        "TCL (32, 6), dense": lambda: contracted((32, 6)),
        "TRL (16, 4, 9)": lambda: TRL(SPEAKERS, (16, 4, 9)),
        "TRL (8, 3, 8)": lambda: TRL(SPEAKERS, (8, 3, 8)),
        "TRL, CP, 20": lambda: TRL(SPEAKERS, 20, in_shape=(0, 0), factorization="cp"),
        "TRL, tensor train (16, 9)": lambda: TRL(SPEAKERS, (16, 9), factorization="tensor_train"),
    }
    print(
        compare(
            backbone,
            heads,
            gluon.loss.SoftmaxCrossEntropyLoss(),
            lambda outputs, labels: 100 * float(np.mean(outputs.argmax(axis=1) == labels)),
            utterances("TRAIN"),
            utterances("TEST"),
            options.epochs,
            range(options.seeds),
            "Top-1, %",
        )
    )


def utterances(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Utterances (count, 12, 29), shorter ones with zeros after their end, and their speakers."""
    path = data_folder("aeon") / "JapaneseVowels" / f"JapaneseVowels_{part}.ts"
    lines = [
        line.split(":") for line in path.read_text().splitlines() if line and line[0] not in "#@"
    ]
    x = np.zeros((len(lines), 12, FRAMES), "float32")
    for utterance, (*channels, _) in zip(x, lines):
        values = np.array([channel.split(",") for channel in channels], "float32")
        utterance[:, : values.shape[1]] = values
    return x, np.array([int(line[-1]) - 1 for line in lines])


def backbone() -> gluon.HybridBlock:
    """From (batch, 12, 29) to (batch, 64, 29).

    Without batch normalisation: after Conv1D, MXNet 1.9.1's fails in the first forward pass that
    follows a training step ("Check failed: !is_view").
    """
    net = nn.HybridSequential()
    for _ in range(2):
        net.add(nn.Conv1D(64, 3, padding=1, activation="relu"))
    return net


def pooled() -> gluon.HybridBlock:
    """The mean over time, and a dense layer."""
    net = nn.HybridSequential()
    net.add(nn.GlobalAvgPool1D(), nn.Dense(SPEAKERS))
    return net


def contracted(rank: tuple[int, int]) -> gluon.HybridBlock:
    """A TCL, and a dense layer: (batch, 64, 29) -> (batch, *rank) -> (batch, 9)."""
    net = nn.HybridSequential()
    net.add(TCL(rank), nn.Dense(SPEAKERS))
    return net


if __name__ == "__main__":
    main()
