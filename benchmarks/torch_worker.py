"""PyTorch's and TensorLy-Torch's side of peers.py, in an environment of its own.

Reads a line of JSON a request, computes some times, and answers with the seconds that it took.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from types import SimpleNamespace as Case

import torch
from torch import nn

warnings.filterwarnings("ignore")
import tltorch  # noqa: E402  warns of what it does not find
from tltorch.functional.tensor_regression import tucker_trl  # noqa: E402

FACTORIZATIONS = {"tucker": "Tucker", "cp": "CP", "tensor_train": "TT"}


def ways(case: Case) -> dict[str, nn.Module]:
    """The ways to compute a case, by name."""
    if case.layer == "TRL":
        options = {
            "input_shape": case.in_shape,
            "output_shape": (case.units,),
            "rank": (1, *case.rank, 1) if case.factorization == "tensor_train" else case.rank,
            "factorization": FACTORIZATIONS[case.factorization],
        }
        layer = tltorch.TRL(**options, bias=True)
        found = {
            "torch, dense": nn.Sequential(
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(case.in_shape[0], case.replaced)
            ),
            "TensorLy-Torch, default": layer,
        }
        if case.factorization == "tucker":
            found |= {"torch, TRL": PlainTRL(case), "TensorLy-Torch": Projecting(layer)}
        return found
    tcl = tltorch.TCL(case.in_shape, case.rank, bias=False)
    if not case.units:
        return {"TensorLy-Torch": tcl}
    inputs = case.rank[0] * case.rank[1] * case.rank[2]
    return {"TensorLy-Torch": nn.Sequential(tcl, nn.Flatten(), nn.Linear(inputs, case.units))}


class PlainTRL(nn.Module):
    """A Tucker TRL with spatial ranks of 1, as one would write it in PyTorch."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        channels, *pixels = case.in_shape
        rank, *_, out_rank = case.rank
        self.pixels = nn.Parameter(torch.randn(pixels[0] * pixels[1]) / pixels[0])
        self.channels = nn.Parameter(torch.randn(channels, rank) / channels**0.5)
        self.core = nn.Parameter(torch.randn(rank, out_rank) / rank**0.5)
        self.output = nn.Linear(out_rank, case.units)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of a batch of activation tensors."""
        return self.output((x.flatten(2) @ self.pixels) @ self.channels @ self.core)


class Projecting(nn.Module):
    """TensorLy-Torch's TRL by its function that projects the input, which its layer does not."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of a batch of activation tensors."""
        return tucker_trl(x, self.layer.weight, project_input=True, bias=self.layer.bias)


def call(
    way: nn.Module, case: Case, batch: int, mode: str
) -> tuple[Callable[[], None], Callable[[], None]]:
    """A call that writes the input of one way, as a backbone, and one that computes the way."""
    source = torch.randn(batch, *case.in_shape)
    x = source.clone().requires_grad_(mode != "forward")
    with torch.no_grad():
        head = torch.ones_like(way(x))

    def write() -> None:
        with torch.no_grad():
            x.copy_(source)

    def forward() -> None:
        with torch.inference_mode():
            way(x)

    def both() -> None:
        way.zero_grad(set_to_none=True)
        x.grad = None
        way(x).backward(head)

    return write, forward if mode == "forward" else both


def read_case(fields: dict) -> Case:
    """A case of benchmarks/cases.py, whose lists are tuples there."""
    return Case(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})


def main() -> None:
    """Answer requests until there are no more."""
    threads, copied = map(int, sys.argv[1:])
    torch.set_num_threads(threads)
    source, target = torch.ones(copied), torch.empty(copied)
    calls: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {}
    is_alone = False
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "versions":
            answer = (
                f"PyTorch {torch.__version__}, TensorLy-Torch {metadata.version('tensorly-torch')}"
            )
        elif request["do"] == "prepare":
            case, is_alone = read_case(request["case"]), request["place"] == "alone"
            calls = {
                name: call(way, case, request["batch"], request["mode"])
                for name, way in ways(case).items()
            }
            answer = list(calls)
        else:
            write, compute = calls[request["way"]]
            answer = []
            for _ in range(request["times"]):
                if not is_alone:
                    torch.add(source, source, out=target)  # overwrites the caches
                    write()
                begin = time.perf_counter()
                compute()
                answer.append(time.perf_counter() - begin)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
