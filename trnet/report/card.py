"""The card of an exported network: what it is, what it was trained on, and how well it does."""

from __future__ import annotations

import hashlib
from pathlib import Path

import tabulate
from scipy.stats import binomtest

from trnet import config as configs
from trnet.config import Config
from trnet.report.summary import head_text
from trnet.result import Result


def card(config: Config, result: Result, scores: dict, file: Path) -> str:
    """Describe an exported network in Markdown.

    Parameters
    ----------
    config : Config
        Of its run.
    result : Result
    scores : dict
        ``epoch``, ``top1`` and ``top5`` of the checkpoint that was exported.
    file : Path
        What was written; of a symbol, its parameters.
    """
    head, data = result["head_parameters"], result["dataset"]
    weights = f"{head['weights']:,}".replace(",", " ")
    content = file.read_bytes()
    savings = "" if config.baseline is None else f"; savings {100 * result['space_savings']:.1f} %"
    training = f"{scores['epoch']} epochs, seed {config.seed}"
    if config.pretrained:
        training += f", from {config.pretrained}"
    if "fit" in result:
        training = f"none since {config.pretrained}, whose head this one is fitted to"
    rows = {
        "Network": f"{config.model.backbone}, {head_text(config)}",
        "Head": f"{weights} weights{savings}",
        "Data": f"{data['name']}, {data['train']} images trained on, {data['validation']} scored",
        "Training": training,
        "Top-1": _share(scores["top1"], data["validation"]),
        "Top-5": _share(scores["top5"], data["validation"]),
        "File": f"{file.name}, {len(content) / 1000:.0f} kB",
        "SHA-256": f"`{hashlib.sha256(content).hexdigest()}`",
        "Versions": ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
    }
    return "\n".join(
        [
            f"# {config.name}, of {config.suite}",
            "",
            tabulate.tabulate(list(rows.items()), ["", ""], "pipe"),
            "",
            "In brackets: Wilson's 95 % interval for so many images. `trnet evaluate` scores the",
            "file; it carries this config, which `trnet train` trains:",
            "",
            f"```yaml\n{configs.dump(config.model_copy(update={'baseline': None}))}```",
            "",
        ]
    )


def _share(share: float, images: int) -> str:
    interval = binomtest(round(share * images), images).proportion_ci(0.95, "wilson")
    return f"{100 * share:.2f} % ({100 * interval.low:.2f} to {100 * interval.high:.2f})"
