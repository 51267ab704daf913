"""What a person sees while a run goes on: what is trained, a live bar, a line an epoch."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

from training.config import TrainingConfig
from training.datasets import Sample
from training.history import best_row, read_history

_STARTING = "preparing"
"""In place of figures before the first step, which takes longest: the graph is being traced."""


def announce(
    config: TrainingConfig,
    train: Mapping[str, Sequence[Sample]],
    validation: Mapping[str, Sequence[Sample]],
    parameters: int,
    console: Console | None = None,
) -> None:
    """Say what is about to be trained, on whom, and for how long.

    Args:
        config: the run.
        train: training samples by source name.
        validation: validation samples by source name.
        parameters: numbers in the model.
        console: where to; standard output by default.
    """
    console = console or Console()
    weights = {source.name: source.weight for source in config.data}
    used = {name: samples for name, samples in train.items() if weights[name] > 0}
    for role, sources in (("training on", used), ("judging on", validation)):
        for name, samples in sources.items():
            if samples:
                patients = len({sample.group for sample in samples})
                console.print(
                    f"{role:>11} {name}: {len(samples)} images of {patients} "
                    f"patient{'s' * (patients != 1)}",
                    highlight=False,
                )
    console.print(
        f"{'model':>11} {config.architecture}, {parameters / 1e6:.1f} million parameters, "
        f"{config.epochs} epochs of {config.steps_per_epoch} steps",
        highlight=False,
        soft_wrap=True,
    )


class Progress(keras.callbacks.Callback):
    """A live bar over the steps of the epoch, and a line an epoch that stays.

    Where the output is no terminal (a file, a pipe) there are the lines alone.
    """

    def __init__(
        self, config: TrainingConfig, history: Path, console: Console | None = None
    ) -> None:
        """Prepare the bar.

        Args:
            config: the run.
            history: its history.csv, which has the epoch before this callback is told of its end.
            console: where to; standard output by default.
        """
        super().__init__()
        self._config = config
        self._history = history
        self._console = console or Console()
        self._bar = RichProgress(
            TextColumn("epoch {task.fields[epoch]:>3}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]:<22}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(
            "steps", total=config.steps_per_epoch, epoch=0, figures=_STARTING
        )
        self._started = 0.0
        self._lines = 0

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Show the bar."""
        del logs
        self._bar.start()

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Take the bar away."""
        del logs
        self._bar.stop()

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Start at zero."""
        del logs
        self._started = time.monotonic()
        self._bar.reset(self._task, epoch=epoch + 1, figures=_STARTING)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Advance."""
        logs = logs or {}
        figures = f"loss {logs['loss']:.3f}  Dice {logs['dice']:.3f}"
        self._bar.update(self._task, completed=batch + 1, figures=figures)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Leave one line, of at most 80 characters for runs of up to 9999 s an epoch."""
        logs = logs or {}
        seconds = time.monotonic() - self._started
        best = best_row(read_history(self._history), self._config)["epoch"] == epoch + 1
        self._print(
            f"{epoch + 1:>3}/{self._config.epochs}  loss {logs['loss']:.3f}  "
            f"Dice {logs['dice']:.3f} | validation loss {logs['val_loss']:.3f}  "
            f"Dice {logs['val_dice']:.3f}  {seconds:.0f} s{'  best' if best else ''}"
        )
        left = self._config.epochs - epoch - 1
        self._lines += 1
        # The first epoch holds the tracing of the graph, and tells nothing of the others.
        if self._lines == 2 and left > 0:
            self._print(f"about {seconds * left / 60:.0f} minutes for the other {left} epochs")

    def _print(self, line: str) -> None:
        self._bar.console.print(line, highlight=False, soft_wrap=True)
