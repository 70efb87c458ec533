"""Kinds and ranks of heads, those that a plugin registers included."""

from typing import Any, Optional

import pytest
from pydantic import BaseModel

from trnet.config import Config
from trnet.report.summary import head_text, summarise
from trnet.report.table import table

TRAIN = {"epochs": 1, "batch_size": 50, "learning_rate": 0.05, "schedule": {"type": "cosine"}}


class ForeignHead(BaseModel, frozen=True):
    """A head of a type that no schema of ours names."""

    type: str
    rank: Any = None
    hidden: Optional[list[int]] = None


def config(name: str, head: dict, baseline: Optional[str] = None) -> Config:
    values = {"suite": "toy", "name": name, "baseline": baseline, "dataset": {"name": "mnist"}}
    model = {"backbone": "small_vgg2", "head": head}
    return Config.model_validate({**values, "model": model, "train": TRAIN})


def foreign(name: str, **head) -> Config:
    known = config(name, {"type": "dense"}, baseline="base")
    model = known.model.model_copy(update={"head": ForeignHead(**head)})
    return known.model_copy(update={"model": model})


BASE = config("base", {"type": "dense", "hidden": [8, 8]})


@pytest.mark.parametrize(
    "head, kind, rank",
    [
        ({"type": "dense"}, "dense", ""),
        ({"type": "dense", "pooling": True}, "pooling, dense", ""),
        ({"type": "dense", "pooling": False}, "flattened, dense", ""),
        ({"type": "tcl", "rank": [3, 2, 1]}, "TCL", "(3, 2, 1)"),
        ({"type": "tcl", "rank": [3, 2, 1], "hidden": [8, 8]}, "TCL", "(3, 2, 1)"),
        ({"type": "tcl", "rank": [3, 2, 1], "hidden": [8]}, "TCL for a dense layer", "(3, 2, 1)"),
        ({"type": "tcl", "rank": [3, 2, 1], "norm": False}, "TCL, not normalised", "(3, 2, 1)"),
        ({"type": "trl", "rank": [3, 2, 1, 4]}, "TRL", "(3, 2, 1, 4)"),
        ({"type": "trl", "rank": 0.1}, "TRL", "0.1"),
        ({"type": "trl", "rank": 5, "factorization": "cp"}, "TRL, CP", "5"),
        ({"type": "trl", "rank": 0.1, "tcl": [3, 2, 2]}, "TCL and TRL", "(3, 2, 2), 0.1"),
        (
            {"type": "trl", "rank": {"savings": 0.9}, "tcl": [3, 2, 2]},
            "TCL and TRL",
            "(3, 2, 2), savings 0.9",
        ),
        (
            {"type": "trl", "rank": [3, 2, 1], "factorization": "tensor_train", "dropout": 0.1},
            "TRL, tensor train, tensor dropout",
            "(3, 2, 1)",
        ),
        ({"type": "trl", "rank": "same", "dropout": 0.1}, "TRL, tensor dropout", "same"),
    ],
)
def test_kind_and_rank(head, kind, rank):
    configs = [BASE, config("other", head, baseline="base")]
    _, row = summarise(configs, {"base": 100, "other": 25}, [], {})
    assert (row.kind, row.rank, row.space_savings) == (kind, rank, 75.0)


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_heads_of_a_plugin_are_summarised():
    """The kind is the type, and the rank is the attribute, for a head that has one."""
    configs = [
        BASE,
        foreign("several", type="sketch", rank=[3, 2], hidden=[7]),
        foreign("one", type="sketch", rank=4),
        foreign("none", type="tanh"),
    ]
    weights = {"base": 100, "several": 50, "one": 40, "none": 30}
    run = {"name": "one", "seed": 0, "config_hash": configs[2].hash, "top1": 0.9, "top5": 1.0}
    rows = {row.name: row for row in summarise(configs, weights, [run], {})}
    found = {name: (row.kind, row.rank, row.hidden) for name, row in rows.items()}
    assert found == {
        "base": ("dense", "", "8, 8"),
        "several": ("sketch", "(3, 2)", "7"),
        "one": ("sketch", "4", ""),
        "none": ("tanh", "", ""),
    }
    assert rows["one"].top1.mean == pytest.approx(90) and rows["one"].space_savings == 60
    laid_out = table(list(rows.values()), "md")
    assert "sketch (3, 2), dense 7" in laid_out and "| tanh " in laid_out


def test_a_head_that_is_fitted_says_so():
    fitted = config("fitted", {"type": "trl", "rank": [3, 2, 2, 4]}).model_dump()
    fitted["model"].update(pretrained="a.params", fit={})
    assert head_text(Config.model_validate(fitted)) == "TRL, fitted (3, 2, 2, 4)"
