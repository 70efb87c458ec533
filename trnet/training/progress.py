"""Progress of a training: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys

from tqdm import tqdm


class Progress:
    """Shows the progress of a training on standard error; a context manager.

    Parameters
    ----------
    label : str
        The run's name.
    epochs, images_per_epoch : int
    show : bool
        Whether to show anything.
    """

    def __init__(self, label: str, epochs: int, images_per_epoch: int, show: bool = True) -> None:
        self._label, self._epochs, self._images_per_epoch = label, epochs, images_per_epoch
        self._show = show
        self._bar = tqdm(
            total=epochs * images_per_epoch,
            desc=label,
            unit=" images",
            unit_scale=True,
            leave=False,
            dynamic_ncols=True,
            disable=not (show and sys.stderr.isatty()),
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def resume(self, epochs_done: int, steps_done: int, images_done: int) -> None:
        """Start after some epochs of an earlier session, and a part of the next one."""
        if epochs_done or steps_done:
            self._bar.update(epochs_done * self._images_per_epoch + images_done)
            self._bar.unpause()
            where = f"step {steps_done} of epoch {epochs_done + 1}"
            where = where if steps_done else f"epoch {epochs_done} of {self._epochs}"
            self.say(f"resumes after {where}")

    def advance(self, images: int) -> None:
        """Count images that were trained on."""
        self._bar.update(images)

    def epoch(self, row: dict) -> None:
        """Show an epoch's metrics."""
        self.say(
            f"epoch {row['epoch']:>{len(str(self._epochs))}}/{self._epochs}  "
            f"loss {row['train_loss']:.4f}  Top-1 {100 * row['top1']:.2f} %  "
            f"Top-5 {100 * row['top5']:.2f} %  {row['images_per_second']:.0f} images/s"
        )

    def say(self, line: str) -> None:
        """Show a line."""
        if self._show:
            tqdm.write(f"{self._label}: {line}", file=sys.stderr)
