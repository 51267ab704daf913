"""What happens around the steps of a run: learning rate, record, TensorBoard."""

import json
import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import keras

from training.config import TrainingConfig
from training.crops import CropDataset
from training.history import read_history, score, write_history
from training.run_state import RunState


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then a cosine down to the final share (Loshchilov and Hutter, 2017).

    Args:
        step: steps done since the run's start.
        config: learning rate, warm-up and length of the run.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    span = max(1, config.total_steps - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / span)
    share = config.final_learning_rate_share
    return config.learning_rate * (share + (1 - share) * (1 + math.cos(math.pi * progress)) / 2)


class LearningRate(keras.callbacks.Callback):
    """Sets the learning rate from the step of the whole run, through phases and resumes."""

    def __init__(self, config: TrainingConfig) -> None:
        super().__init__()
        self._config = config
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Remember the epoch."""
        del logs
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Set the rate of this step."""
        del logs
        step = self._epoch * self._config.steps_per_epoch + batch
        self.model.optimizer.learning_rate = learning_rate_at(step, self._config)


class EpochSeed(keras.callbacks.Callback):
    """Tells the crops which epoch it is; counting calls of Keras' own hook goes wrong on resume."""

    def __init__(self, crops: CropDataset) -> None:
        super().__init__()
        self._crops = crops

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Set the epoch before the first batch is asked for."""
        del logs
        self._crops.epoch = epoch


class AveragedValidation(keras.callbacks.Callback):
    """Validates the averaged weights, and gives the step's own weights back to the training."""

    def __init__(self) -> None:
        super().__init__()
        self._swapped = ExitStack()

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """Put the average in place of the weights."""
        del logs
        self._swapped.enter_context(averaged_weights(self.model))

    def on_test_end(self, logs: dict[str, float] | None = None) -> None:
        """Put the weights back."""
        del logs
        self._swapped.close()


@contextmanager
def averaged_weights(model: keras.Model) -> Iterator[None]:
    """Hold the moving average of a model's weights in place of its own.

    Does nothing for an optimizer that averages nothing.
    """
    if not model.optimizer.use_ema:
        yield
        return
    # Copies: under jax an assigned array is shared, and a step gives its buffers up to reuse them.
    own = [weight.copy() for weight in model.get_weights()]
    model.optimizer.finalize_variable_values(model.trainable_variables)
    model.set_weights([weight.copy() for weight in model.get_weights()])
    try:
        yield
    finally:
        model.set_weights(own)


class RunRecorder(keras.callbacks.Callback):
    """After every epoch: history, the best model, the state to resume from, early stopping."""

    def __init__(self, run_dir: Path, config: TrainingConfig, state: RunState) -> None:
        super().__init__()
        self._run_dir = run_dir
        self._config = config
        self._state = state
        self._started = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Start the epoch's clock."""
        del epoch, logs
        self._started = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Record the epoch.

        Raises:
            FloatingPointError: the loss is not finite; going on would only waste the machine.
        """
        values = {key: float(value) for key, value in (logs or {}).items()}
        if not math.isfinite(values["loss"]):
            raise FloatingPointError(
                f"the loss of epoch {epoch + 1} is {values['loss']}: lower the learning rate"
            )
        path = self._run_dir / "history.csv"
        # A run killed between history and state repeats the epoch: its first row goes.
        rows = [row for row in read_history(path) if row["epoch"] <= epoch]
        row = {
            "epoch": float(epoch + 1),
            "seconds": round(time.monotonic() - self._started, 2),
            "learning_rate": float(self.model.optimizer.learning_rate),
            **values,
        }
        if all(score(row, self._config) > score(earlier, self._config) for earlier in rows):
            with averaged_weights(self.model):
                save_model(self.model, self._run_dir / "model.keras")
        rows.append(row)
        write_history(path, rows)
        self._state.save(self.model, epoch + 1)
        best = max(range(len(rows)), key=lambda i: score(rows[i], self._config))
        if len(rows) - 1 - best >= self._config.early_stopping_epochs:
            self.model.stop_training = True


def save_model(model: keras.Model, path: Path) -> None:
    """Write a model as float32, without optimizer, atomically.

    The model is rebuilt from its configuration: saved as it is, a compiled model takes its
    optimizer along, three times the size and unreadable under another backend; and a model under
    a mixed policy keeps the policy, which tf2onnx cannot export.

    Args:
        model: the model, compiled or not, under any policy.
        path: `.keras` file.
    """
    plain = keras.models.model_from_json(_plain_json(model))
    plain.set_weights(model.get_weights())
    partial = path.with_name(f".partial-{path.name}")
    plain.save(partial)
    os.replace(partial, path)  # noqa: PTH105  atomic, and says so


def _plain_json(model: keras.Model) -> str:
    config = json.loads(model.to_json())
    config.pop("compile_config", None)
    return re.sub(r'"mixed_b?float16"', '"float32"', json.dumps(config))


class TensorBoardWriter(keras.callbacks.Callback):
    """Writes each epoch's figures as TensorBoard scalars.

    Keras' own callback needs TensorFlow; this one needs the tensorboard package alone, so that a
    run under torch or jax is logged as well, and is left out where that is missing.
    """

    def __init__(self, log_dir: Path) -> None:
        super().__init__()
        self._log_dir = log_dir
        self._writer: Any = None

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Open an event file."""
        del logs
        try:
            from tensorboard.summary.writer.event_file_writer import (  # noqa: PLC0415  optional
                EventFileWriter,
            )
        except ImportError:
            return
        self._writer = EventFileWriter(str(self._log_dir))

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Append one event."""
        if self._writer is None:
            return
        from tensorboard.compat.proto.event_pb2 import Event  # noqa: PLC0415  optional
        from tensorboard.compat.proto.summary_pb2 import Summary  # noqa: PLC0415  optional

        values = [
            Summary.Value(tag=name, simple_value=float(value))
            for name, value in (logs or {}).items()
        ]
        event = Event(wall_time=time.time(), step=epoch + 1, summary=Summary(value=values))
        self._writer.add_event(event)
        self._writer.flush()

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Close the file."""
        del logs
        if self._writer is not None:
            self._writer.close()
