"""Progress of a training: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

_SECONDS_PER_LINE = 60.0  # where there is no bar


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
        self._show, self._epoch = show, 1
        self._begun = self._said = time.monotonic()
        self._images_before = self._images = 0
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
            self._images = epochs_done * self._images_per_epoch + images_done
            self._images_before = self._images
            self._bar.update(self._images)
            self._bar.unpause()
            where = f"step {steps_done} of epoch {epochs_done + 1}"
            where = where if steps_done else f"epoch {epochs_done} of {self._epochs}"
            self.say(f"resumes after {where}")

    def begin(self, epoch: int) -> None:
        """Begin an epoch, or the rest of one."""
        self._epoch = epoch
        self._bar.set_description(f"{self._label}, epoch {epoch}/{self._epochs}", refresh=False)

    def advance(self, images: int, learning_rate: float) -> None:
        """Count images that were trained on; says every minute where there is no bar."""
        self._images += images
        self._bar.set_postfix_str(f"rate {learning_rate:.2g}", refresh=False)
        self._bar.update(images)
        now = time.monotonic()
        if self._bar.disable and now - self._said > _SECONDS_PER_LINE:
            self._said = now
            speed = (self._images - self._images_before) / (now - self._begun)
            left = (self._epochs * self._images_per_epoch - self._images) / speed / 60
            done = 100 * (self._images / self._images_per_epoch + 1 - self._epoch)
            self.say(
                f"epoch {self._epoch}/{self._epochs}, {done:.0f} %  rate {learning_rate:.2g}  "
                f"{speed:.0f} images/s  {left:.0f} min left"
            )

    def validate(self) -> None:
        """Say on a bar that the validation images are scored."""
        self._bar.set_postfix_str("validation")

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
