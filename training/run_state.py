"""What an interrupted run needs to go on exactly: variables of model and optimizer."""

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np


class RunState:
    """All variables of a compiled model after the last finished epoch, in one file."""

    def __init__(self, path: Path, configuration: str) -> None:
        """Name the file and what it belongs to.

        Args:
            path: `.npz` file, which need not exist.
            configuration: digest of the run's configuration.
        """
        self._path = path
        self._configuration = configuration

    def epochs_done(self) -> int:
        """Epochs finished when the file was written; 0 without a file."""
        if not self._path.is_file():
            return 0
        with np.load(self._path) as saved:
            return int(saved["epochs_done"])

    def save(self, model: keras.Model, epochs_done: int) -> None:
        """Write the state; a kill at any moment leaves the old file or the new one."""
        arrays: dict[str, Any] = {
            "epochs_done": np.asarray(epochs_done),
            "configuration": np.asarray(self._configuration),
        }
        arrays |= {f"model{i}": _numpy(v) for i, v in enumerate(model.variables)}
        arrays |= {f"optimizer{i}": _numpy(v) for i, v in enumerate(model.optimizer.variables)}
        partial = self._path.with_suffix(".partial.npz")
        np.savez(partial, **arrays)
        os.replace(partial, self._path)  # noqa: PTH105  atomic, and says so

    def restore(self, model: keras.Model, *, with_optimizer: bool) -> None:
        """Set the variables of a compiled model of the same configuration.

        Args:
            model: the model, compiled as it was when it was saved if `with_optimizer`.
            with_optimizer: whether the optimizer goes on, too.

        Raises:
            ValueError: when the variables are not those of this model.
        """
        parts = [("model", model.variables)]
        if with_optimizer:
            model.optimizer.build(model.trainable_variables)
            parts.append(("optimizer", model.optimizer.variables))
        with np.load(self._path) as saved:
            for prefix, variables in parts:
                names = [name for name in saved.files if name.startswith(prefix)]
                if len(names) != len(variables):
                    raise ValueError(
                        f"{self._path}: {len(names)} {prefix} variables saved, "
                        f"{len(variables)} in this model"
                    )
                for i, variable in enumerate(variables):
                    variable.assign(saved[f"{prefix}{i}"])

    def remove(self) -> None:
        """Delete the file; a complete run does not resume."""
        self._path.unlink(missing_ok=True)


def _numpy(variable: keras.Variable) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable.value))
