"""The model of a run, loaded."""

from pathlib import Path

import keras

from training.run_folder import RunFolderError


def load_best_model(run_dir: Path) -> keras.Model:
    """Load `model.keras` of a run folder, uncompiled.

    Raises:
        RunFolderError: there is none, or it is spoilt.
    """
    path = run_dir / "model.keras"
    if not path.is_file():
        raise RunFolderError(f"{run_dir}: no model.keras; train one with `python -m training fit`")
    try:
        return keras.models.load_model(path, compile=False)
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"{path}: no Keras model; copy it again from where it was trained"
        ) from error
