"""Mistakes that people make with `python -m training fit`: the message names fault and remedy.

Each case spoils a folder or a recipe that works, runs the real command and reads its one line.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.__main__ import main
from training.datasets import read_dataset

RECIPE = """
architecture = "unet"
crop_px = 32
batch_size = 2
steps_per_epoch = 1
epochs = 1

[[data]]
name = "mine"
path = "mine"
validation_groups = ["p02"]
"""


class Attempt:
    """A user's folders: `mine` with images and labels, `recipe.toml`, and `run` to be written."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images = root / "mine" / "images"
        self.labels = root / "mine" / "labels"
        self.recipe = root / "recipe.toml"
        self.run = root / "run"

    def change_recipe(self, old: str, new: str) -> None:
        text = self.recipe.read_text("utf-8")
        assert old in text
        self.recipe.write_text(text.replace(old, new), "utf-8")


def _sizes_differ(attempt: Attempt) -> None:
    cv2.imwrite(str(attempt.labels / "p00_0.png"), np.zeros((48, 96), np.uint8))


def _empty_folder(attempt: Attempt) -> None:
    shutil.rmtree(attempt.images)
    attempt.images.mkdir()


def _no_labels(attempt: Attempt) -> None:
    shutil.rmtree(attempt.labels)


def _one_label_missing(attempt: Attempt) -> None:
    (attempt.labels / "p01_1.png").rename(attempt.labels / "p01_1_mask.png")


def _validation_matches_nothing(attempt: Attempt) -> None:
    attempt.change_recipe('"p02"', '"patient02"')


def _every_patient_held_out(attempt: Attempt) -> None:
    attempt.change_recipe('"p02"', '"p0*"')


def _patient_in_two_splits(attempt: Attempt) -> None:
    text = attempt.recipe.read_text("utf-8")
    again = '[[data]]\nname = "again"\npath = "mine"\n'
    attempt.recipe.write_text(f"{text}\n{again}", "utf-8")


def _weights_missing(attempt: Attempt) -> None:
    attempt.change_recipe('"unet"', '"mobilenetv2_unet"\nencoder_weights = "absent.h5"')


def _weights_are_no_weights(attempt: Attempt) -> None:
    (attempt.root / "weights.h5").write_bytes(b"not a weights file")
    attempt.change_recipe('"unet"', '"mobilenetv2_unet"\nencoder_weights = "weights.h5"')


def _unknown_field(attempt: Attempt) -> None:
    attempt.change_recipe("batch_size", "batchsize")


def _recipe_is_no_toml(attempt: Attempt) -> None:
    attempt.change_recipe('architecture = "unet"', "architecture = unet")


def _recipe_missing(attempt: Attempt) -> None:
    attempt.recipe.unlink()


def _run_exists(attempt: Attempt) -> None:
    attempt.run.mkdir()
    (attempt.run / "config.json").write_text("{}", "utf-8")


def _no_image(attempt: Attempt) -> None:
    (attempt.images / "p00_0.png").write_text("this is a note", "utf-8")


def _labels_are_coloured(attempt: Attempt) -> None:
    labels = cv2.imread(str(attempt.labels / "p00_0.png"), cv2.IMREAD_UNCHANGED)
    assert labels is not None
    coloured = np.zeros((*labels.shape, 3), np.uint8)
    coloured[labels == 1] = (255, 0, 0)
    coloured[labels == 2] = (0, 255, 0)
    cv2.imwrite(str(attempt.labels / "p00_0.png"), coloured)


# The mistake, words that name the fault, words that name the remedy.
MISTAKES: tuple[tuple[Callable[[Attempt], None], str, str], ...] = (
    (_sizes_differ, "image is 96x96 px but its annotation p00_0.png is 96x48", "export both"),
    (_empty_folder, "images: no image", "put the images there as .png"),
    (_no_labels, "neither labels/ nor masks/", "labels/ takes"),
    (_one_label_missing, "no annotation for 1 of 6 images, first p01_1.png", "share their stem"),
    (_validation_matches_nothing, "no group matches 'patient02'", "there are p00, p01, p02"),
    (_every_patient_held_out, "nothing is left to train on", "hold out fewer"),
    (_patient_in_two_splits, "p02_0.png is held out in mine and trained on in again", "leave"),
    (_weights_missing, "absent.h5 not found", "give a file, 'imagenet' or 'none'"),
    (_weights_are_no_weights, "weights.h5 is no Keras weights file", "give a .h5 file"),
    (_unknown_field, "batchsize: unknown field", "did you mean batch_size?"),
    (_recipe_is_no_toml, "recipe.toml: Invalid value (at line 2", "quotes"),
    (_recipe_missing, "recipe.toml: no such file", "training/recipes"),
    (_run_exists, "run: holds a run already", "resume it or choose another folder"),
    (_no_image, "p00_0.png: not an image that OpenCV reads", "export it again as PNG or TIFF"),
    (_labels_are_coloured, "p00_0.png: an annotation in colour", "one number a nucleus"),
)


@pytest.fixture
def attempt(tmp_path: Path, disc_folder: Path) -> Attempt:
    shutil.copytree(disc_folder, tmp_path / "mine")
    made = Attempt(tmp_path)
    made.recipe.write_text(RECIPE, "utf-8")
    return made


def fit_message(attempt: Attempt, capfd: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """Run the command as its user would; return exit status and what it printed, unwrapped."""
    arguments = ["training", "fit", str(attempt.recipe), "--data-root", str(attempt.root)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [*arguments, "--run-dir", str(attempt.run)])
        with pytest.raises(SystemExit) as ended:
            main()
    printed = capfd.readouterr()
    return ended.value.code, " ".join((printed.out + printed.err).split())


@pytest.mark.parametrize(
    ("spoil", "fault", "remedy"), MISTAKES, ids=[case[0].__name__[1:] for case in MISTAKES]
)
def test_a_mistake_is_named_with_its_remedy(
    spoil: Callable[[Attempt], None],
    fault: str,
    remedy: str,
    attempt: Attempt,
    capfd: pytest.CaptureFixture[str],
) -> None:
    spoil(attempt)
    code, message = fit_message(attempt, capfd)
    assert code == 2
    assert fault in message
    assert remedy in message
    assert "Traceback" not in message
    # Whoever mends the mistake and tries again must not meet a half-made run.
    assert attempt.run.exists() == (spoil is _run_exists)


@pytest.mark.parametrize("kind", ["masks of 0 and 1", "masks of 0 and 255", "RGBA images"])
def test_what_looks_like_a_mistake_simply_works(kind: str, attempt: Attempt) -> None:
    before = [sample.read() for sample in read_dataset(attempt.root / "mine")]
    if kind == "RGBA images":
        for path in attempt.images.iterdir():
            image = cv2.imread(str(path))
            assert image is not None
            cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_BGR2BGRA))
    else:
        attempt.labels.rename(attempt.root / "mine" / "masks")
        for path in (attempt.root / "mine" / "masks").iterdir():
            labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            assert labels is not None
            high = 1 if kind.endswith(" 1") else 255
            cv2.imwrite(str(path), ((labels > 0) * high).astype(np.uint8))
    after = [sample.read() for sample in read_dataset(attempt.root / "mine")]
    for (pixels, labels), (pixels_again, labels_again) in zip(before, after, strict=True):
        np.testing.assert_array_equal(pixels, pixels_again)
        np.testing.assert_array_equal(labels > 0, labels_again > 0)
        assert labels.max() == labels_again.max()
