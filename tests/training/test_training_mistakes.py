"""Mistakes that people make with `python -m training`: the message names fault and remedy.

Each case spoils a folder or a recipe that works, runs the real command and reads its one line.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.__main__ import main
from training.config import load_config
from training.run_folder import (
    RunFolderError,
    check_free_space,
    configuration_digest,
    write_data_record,
    write_environment,
)
from training.sources import read_sources

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


def _one_image_missing(attempt: Attempt) -> None:
    (attempt.images / "p01_1.png").unlink()


def _two_images_of_one_name(attempt: Attempt) -> None:
    shutil.copyfile(attempt.images / "p01_1.png", attempt.images / "p01_1.tif")


def _mask_among_labels(attempt: Attempt) -> None:
    for path in attempt.labels.iterdir():
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert labels is not None
        cv2.imwrite(str(path), np.where(labels > 0, 255, 0).astype(np.uint8))


def _labels_among_masks(attempt: Attempt) -> None:
    attempt.labels.rename(attempt.root / "mine" / "masks")


def _mask_of_1_and_2(attempt: Attempt) -> None:
    attempt.labels.rename(attempt.root / "mine" / "masks")
    for path in (attempt.root / "mine" / "masks").iterdir():
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert labels is not None
        cv2.imwrite(str(path), np.where(labels > 0, 2, 1).astype(np.uint8))


def _masks_are_jpeg(attempt: Attempt) -> None:
    masks = attempt.root / "mine" / "masks"
    masks.mkdir()
    for path in attempt.labels.iterdir():
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert labels is not None
        mask = np.where(labels > 0, 255, 0).astype(np.uint8)
        cv2.imwrite(str(masks / f"{path.stem}.jpg"), mask)
    shutil.rmtree(attempt.labels)


def _image_under_another_name(attempt: Attempt) -> None:
    again = attempt.root / "again"
    for folder in ("images", "labels"):
        (again / folder).mkdir(parents=True)
        shutil.copyfile(
            attempt.root / "mine" / folder / "p02_0.png", again / folder / "other_7.png"
        )
    text = attempt.recipe.read_text("utf-8")
    source = '[[data]]\nname = "again"\npath = "again"\n'
    attempt.recipe.write_text(f"{text}\n{source}", "utf-8")


def _unknown_architecture(attempt: Attempt) -> None:
    attempt.change_recipe('"unet"', '"vgg_unet"')


def _crop_larger_than_images(attempt: Attempt) -> None:
    attempt.change_recipe("crop_px = 32", "crop_px = 128")


def _run_dir_is_a_file(attempt: Attempt) -> None:
    attempt.run.parent.joinpath("run").write_text("a note", "utf-8")


def _recipe_is_no_toml(attempt: Attempt) -> None:
    attempt.change_recipe('architecture = "unet"', "architecture = unet")


def _recipe_missing(attempt: Attempt) -> None:
    attempt.recipe.unlink()


def _run_exists(attempt: Attempt) -> None:
    attempt.run.mkdir()
    (attempt.run / "config.json").write_text("{}", "utf-8")


def _no_image(attempt: Attempt) -> None:
    (attempt.images / "p00_0.png").write_text("this is a note", "utf-8")


def _image_of_twelve_bits(attempt: Attempt) -> None:
    """As many cameras write: divided by 257, as 16 bits are, it is nearly black."""
    path = attempt.images / "p00_0.png"
    pixels = cv2.imread(str(path)).astype(np.uint16) * 16
    cv2.imwrite(str(path), pixels)


def _image_cut_short(attempt: Attempt) -> None:
    """A copy that broke off: OpenCV paints what is missing grey."""
    path = attempt.images / "p00_0.png"
    cv2.imwrite(str(path.with_suffix(".jpg")), cv2.imread(str(path)))
    path.unlink()
    whole = path.with_suffix(".jpg").read_bytes()
    path.with_suffix(".jpg").write_bytes(whole[: len(whole) * 6 // 10])


def _image_partly_transparent(attempt: Attempt) -> None:
    """The service would put it on white, and training saw the colour underneath."""
    path = attempt.images / "p00_0.png"
    pixels = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2BGRA)
    pixels[:20, :, 3] = 0
    cv2.imwrite(str(path), pixels)


def _no_nucleus_to_judge_on(attempt: Attempt) -> None:
    """Every epoch would have a Dice of 1."""
    for number in range(2):
        cv2.imwrite(str(attempt.labels / f"p02_{number}.png"), np.zeros((96, 96), np.uint16))


def _no_nucleus_to_learn_from(attempt: Attempt) -> None:
    for path in attempt.labels.glob("p0[01]_*.png"):
        cv2.imwrite(str(path), np.zeros((96, 96), np.uint16))


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
    (
        _one_label_missing,
        "no annotation for 1 of 6 images, first p01_1.png (p01_1_mask.png has no image)",
        "share their stem",
    ),
    (_validation_matches_nothing, "no group matches 'patient02'", "there are p00, p01, p02"),
    (_every_patient_held_out, "nothing is left to train on", "hold out fewer"),
    (_patient_in_two_splits, "patient p02 is held out in mine and trained on", "in both"),
    (_image_under_another_name, "p02_0.png is held out in mine and trained on in again", "leave"),
    (_one_image_missing, "1 annotations without an image, first p01_1.png", "put the image"),
    (_two_images_of_one_name, "p01_1.png and p01_1.tif differ in their ending", "rename one"),
    (_mask_among_labels, "one number (255) for 8 separate nuclei", "rename the folder labels/"),
    (_labels_among_masks, "9 different values, and a mask has two", "rename masks/ to labels/"),
    (_mask_of_1_and_2, "values are 1 and 2, and background must be 0", "save 0 for background"),
    (_masks_are_jpeg, "p00_0.jpg is a JPEG", "export annotations as PNG"),
    (_unknown_architecture, "'vgg_unet' is none of", "did you mean vgg16_unet?"),
    (_crop_larger_than_images, "crop_px is 128, but the largest image", "set crop_px = 96"),
    (_run_dir_is_a_file, "run: cannot be written (Not a directory)", "choose another --run-dir"),
    (_weights_missing, "absent.h5 not found", "give a file, 'imagenet' or 'none'"),
    (_weights_are_no_weights, "weights.h5 is no Keras weights file", "give a .h5 file"),
    (_unknown_field, "batchsize: unknown field", "did you mean batch_size?"),
    (_recipe_is_no_toml, "recipe.toml: Invalid value (at line 2", "quotes"),
    (_recipe_missing, "recipe.toml: no such file", "training/recipes"),
    (_run_exists, "run: holds a run already", "resume it or choose another folder"),
    (_no_image, "p00_0.png: not an image that OpenCV reads", "export it again as PNG or TIFF"),
    (_image_of_twelve_bits, "p00_0.png: 12 bits in 16", "save it with 8 bits"),
    (_image_cut_short, "p00_0.jpg: not an image that OpenCV reads, or cut short", "export"),
    (_image_partly_transparent, "p00_0.png: partly transparent", "save it without transparency"),
    (_no_nucleus_to_judge_on, "no nucleus is annotated in the 2 validation images", "hold out"),
    (_no_nucleus_to_learn_from, "no nucleus is annotated in the 4 training images", "labels"),
    (_labels_are_coloured, "p00_0.png: an annotation in colour", "one number a nucleus"),
)


@pytest.fixture
def attempt(tmp_path: Path, disc_folder: Path) -> Attempt:
    shutil.copytree(disc_folder, tmp_path / "mine")
    made = Attempt(tmp_path)
    made.recipe.write_text(RECIPE, "utf-8")
    return made


def message_of(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[object, str]:
    """Run a command as its user would; return exit status and what it printed, unwrapped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["training", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    printed = capfd.readouterr()
    return ended.value.code, " ".join((printed.out + printed.err).split())


def fit_message(attempt: Attempt, capfd: pytest.CaptureFixture[str]) -> tuple[object, str]:
    where = ("--data-root", attempt.root, "--run-dir", attempt.run)
    return message_of(capfd, "fit", attempt.recipe, *where)


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
    assert (code, "Traceback" in message) == (2, False)
    assert fault in message
    assert remedy in message
    # Whoever mends the mistake and tries again must not meet a half-made run.
    assert attempt.run.exists() == (spoil in (_run_exists, _run_dir_is_a_file))


def interrupted(attempt: Attempt) -> None:
    """What a run leaves that was killed in its first epochs, as far as a resume looks at it."""
    config = load_config(attempt.recipe)
    attempt.run.mkdir()
    (attempt.run / "config.json").write_text(config.to_json(), "utf-8")
    digest = configuration_digest(config.to_json())
    np.savez(attempt.run / "state.npz", epochs_done=1, configuration=digest)
    train, validation = read_sources(config, attempt.root)
    write_data_record(attempt.run, config, train, validation)
    write_environment(attempt.run, attempt.root, {})


def _nothing_to_resume(attempt: Attempt) -> None:
    (attempt.run / "state.npz").unlink()
    (attempt.run / "metrics.json").write_text("{}", "utf-8")


def _no_run_folder(attempt: Attempt) -> None:
    (attempt.run / "config.json").unlink()


def _configuration_edited(attempt: Attempt) -> None:
    path = attempt.run / "config.json"
    path.write_text(path.read_text("utf-8").replace('"epochs": 1', '"epochs": 9'), "utf-8")


def _data_changed(attempt: Attempt) -> None:
    for folder in (attempt.images, attempt.labels):
        (folder / "p00_1.png").unlink()


@pytest.mark.parametrize(
    ("spoil", "fault", "remedy"),
    [
        (_nothing_to_resume, "run: no interrupted run to resume", "start another one"),
        (_no_run_folder, "run: no run folder, config.json is missing", "give the folder"),
        (_configuration_edited, "config.json: was changed since the run", "undo the change"),
        (_data_changed, "the files of mine changed since this run", "put them back"),
    ],
)
def test_a_mistake_with_resume_is_named_with_its_remedy(
    spoil: Callable[[Attempt], None],
    fault: str,
    remedy: str,
    attempt: Attempt,
    capfd: pytest.CaptureFixture[str],
) -> None:
    interrupted(attempt)
    spoil(attempt)
    # Where the data lies need not be said again: the run knows.
    code, message = message_of(capfd, "resume", attempt.run)
    assert (code, fault in message, remedy in message) == (2, True, True), message


def test_a_run_killed_in_its_first_epoch_is_resumed(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`fit` says that the folder holds a run and must be resumed, so that must be possible."""
    interrupted(attempt)
    (attempt.run / "state.npz").unlink()
    monkeypatch.setattr("sys.argv", ["training", "resume", str(attempt.run)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert (attempt.run / "model.keras").is_file()
    assert not (attempt.run / "state.npz").exists()


def test_mistakes_with_evaluate_report_and_compare_are_named(
    attempt: Attempt, capfd: pytest.CaptureFixture[str]
) -> None:
    data = attempt.root / "mine"
    for arguments, fault, remedy in (
        (("evaluate", attempt.root / "none", data), "no model.keras", "python -m training fit"),
        (("report", data), "no run folder, config.json is missing", "--run-dir"),
        (("compare", data), "needs two or more different run folders", "name them all"),
        (("compare", data, attempt.root), "no run folder", "--run-dir"),
        (("check", attempt.root), "neither images/ with labels/", "Slide_NN/"),
    ):
        code, message = message_of(capfd, *arguments)
        assert (code, fault in message, remedy in message) == (2, True, True), message
        assert "Traceback" not in message
    attempt.run.mkdir()
    (attempt.run / "model.keras").write_bytes(b"no model")
    code, message = message_of(capfd, "evaluate", attempt.run, data)
    assert (code, "model.keras: no Keras model; copy it again" in message) == (2, True), message


def test_a_full_disk_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The one part that cannot be real here: a disk with 50 MB left.
    usage = shutil.disk_usage(tmp_path)._replace(free=50_000_000)
    monkeypatch.setattr("training.run_folder.shutil.disk_usage", lambda _: usage)
    check_free_space(tmp_path / "run", parameters=500_000)
    with pytest.raises(RunFolderError, match="50 MB are free and this run takes about 132 MB"):
        check_free_space(tmp_path / "run", parameters=2_800_000)
