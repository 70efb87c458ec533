"""A suite of three experiments, and results of its runs that were never trained."""

from pathlib import Path

from trnet.config import Config
from trnet.result import VERSION, Result
from trnet.suite import Suite

HEADS = {
    "base": "{type: dense}",
    "small": "{type: trl, rank: [3, 2, 2, 4]}",
    "tiny": "{type: tcl, rank: [1, 1, 1]}",
}


def make_suite(root: Path) -> Suite:
    """Write the configs below a folder, which gets the runs and the results as well."""
    folder = root / "configs/toy"
    folder.mkdir(parents=True)
    for name, head in HEADS.items():
        baseline = "" if name == "base" else "baseline: base\n"
        (folder / f"{name}.yaml").write_text(
            f"name: {name}\n{baseline}dataset: {{name: mnist}}\n"
            f"model: {{backbone: small_vgg2, head: {head}}}\n"
            "train: {epochs: 1, batch_size: 50, learning_rate: 0.05, schedule: {type: cosine}}\n"
        )
    return Suite.load(folder, root / "runs", root / "results")


def make_result(config: Config, seed: int, top1: float, **changes) -> Result:
    """The result of a run, complete and valid."""
    return {
        "version": VERSION,
        "name": config.name,
        "suite": config.suite,
        "seed": seed,
        "config_hash": config.hash,
        "dataset": {"name": "mnist", "train": 4000, "validation": 1000},
        "top1": top1,
        "top5": 0.99,
        "loss": 0.1,
        "curve": {"train_loss": [2.0, 1.0], "top1": [0.5, top1]},
        "head_parameters": {"weights": 300, "biases": 10, "normalisation": 0},
        "baseline_head_weights": 1000,
        "space_savings": 0.7,
        "epochs": 2,
        "wall_seconds": 3,
        "images_per_second": 2000.0,
        "versions": {"python": "3.11"},
        "processor": "a CPU",
        "threads": "1",
        "workers": 1,
        **changes,
    }


def make_results(suite: Suite) -> list[Result]:
    """Two runs of the baseline, and three of one of its experiments."""
    of = {"base": [0.90, 0.94], "small": [0.91, 0.93, 0.80]}
    return [
        make_result(suite.configs[name], seed, top1)
        for name, shares in of.items()
        for seed, top1 in enumerate(shares)
    ]
