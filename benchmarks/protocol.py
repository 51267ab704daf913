"""Train and judge every architecture under one protocol, and cross-validate over patients.

    python -m benchmarks.protocol architectures --encoder-dir WEIGHTS
    python -m benchmarks.protocol folds --architecture efficientnetv2b0_unet --encoder-dir WEIGHTS

Each run is three commands that a user could type (they are printed): `training fit` with
`training/recipes/protocol.toml`, or for folds `folds.toml` (300 steps of larger batches),
`export model`, and for folds `export evaluate`. Runs that are complete are not made again, so the
command may be interrupted and repeated; hours on two cores.

A fold tests two patients, calibrates the thresholds on the next two, and trains on the other four
and on NuInsSeg: the figures of the tested patients depend on nothing that was chosen on them but
the epoch, which is taken on all four held-out patients.

EfficientNetB0 without weights learns slowest of all, with its depthwise convolutions: it gets 700
and 700 steps where the others get 500, in about the processor time of the plain U-Net. The table of
results says so.
"""

import argparse
import subprocess
import sys
from pathlib import Path

RECIPE = "training/recipes/protocol.toml"
SECOND_STAGES = {
    "efficientnetb0_unet": (
        "training/recipes/protocol_from_random.toml",
        "training/recipes/protocol_second_stage.toml",
        "efficientnetb0_first_stage",
    ),
}
"""What a network is given that learns too slowly from random weights: the recipes of both stages,
and the run folder of the first, which is the `initial_model` of the second."""

FOLD_RECIPE = "training/recipes/folds.toml"
ARCHITECTURES = (
    "mobilenetv2_unet",
    "efficientnetv2b0_unet",
    "resnet50_unet",
    "efficientnetb0_unet",
    "transunet",
    "unet",
    "vgg16_unet",
)
# How the names of weight files begin; TransUNet stands on ResNet50. Elsewhere random weights.
WEIGHT_FILES = {
    "mobilenetv2_unet": "mobilenet_v2",
    "efficientnetv2b0_unet": "efficientnetv2-b0",
    "efficientnetb0_unet": "efficientnetb0",
    "resnet50_unet": "resnet50",
    "transunet": "resnet50",
    "vgg16_unet": "vgg16",
}
FOLDS = (("01", "02"), ("03", "04"), ("05", "06"), ("07", "08"))


def run(*arguments: str) -> None:
    """Run one command of the project and show it."""
    print("python -m", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", *arguments], check=True)


def encoder_weights(architecture: str, folder: Path | None) -> str:
    """Return the weight file of an encoder, `imagenet` without a folder, `none` without a file."""
    prefix = WEIGHT_FILES.get(architecture)
    if prefix is None:
        return "none"
    if folder is None:
        return "imagenet"
    found = sorted(folder.glob(f"{prefix}*.h5"))
    return str(found[0].resolve()) if found else "none"


def train(
    architecture: str, name: str, options: argparse.Namespace, hold_out: tuple[str, ...] = ()
) -> Path:
    """Train one run, unless it is complete."""
    folder = Path(options.runs) / name
    weights = encoder_weights(architecture, options.encoder_dir)
    if not (folder / "metrics.json").is_file():
        patterns = [part for patient in hold_out for part in ("--hold-out", f"tnbc_p{patient}")]
        data = ("--data-root", str(options.data_root))
        recipe = options.recipe or RECIPE
        if weights == "none" and options.recipe is None and architecture in SECOND_STAGES:
            first, second, stage_name = SECOND_STAGES[architecture]
            stage = Path(options.runs) / stage_name
            start = ("--architecture", architecture, "--encoder-weights", "none")
            if not (stage / "metrics.json").is_file():
                run("training", "fit", first, *start, *data, "--run-dir", str(stage), *patterns)
            run("training", "fit", second, *data, "--run-dir", str(folder), *patterns)
            return folder
        run("training", "fit", recipe, "--architecture", architecture,
            "--encoder-weights", weights, *data, "--run-dir", str(folder), *patterns)  # fmt: skip
    return folder


def release(folder: Path, name: str, groups: tuple[str, ...], options: argparse.Namespace) -> Path:
    """Export a run, calibrated on some of its held-out patients, unless that is done."""
    out = Path(options.runs) / "exported"
    model = out / name / "0.0.1" / "model.onnx"
    if not model.is_file():
        # No training image lies below `runs`: a model that nobody serves needs no quality flags,
        # whose reference takes longer than all the rest.
        run("export", "model", str(folder), "--validation", str(options.data_root / "tnbc"),
            "--groups", ",".join(groups), "--name", name, "--version", "0.0.1",
            "--data-root", options.runs, "--out", str(out))  # fmt: skip
    return model


def architectures(options: argparse.Namespace) -> None:
    """Every architecture on the split of the project: 01-06 for training, 07-08 held out."""
    for architecture in options.only or ARCHITECTURES:
        name = f"protocol-{architecture}"
        release(train(architecture, name, options), name, ("07", "08"), options)


def folds(options: argparse.Namespace) -> None:
    """One architecture, every patient tested once."""
    for index, tested in enumerate(FOLDS):
        calibrated = FOLDS[(index + 1) % len(FOLDS)]
        name = f"fold{index}-{options.architecture}"
        folder = train(options.architecture, name, options, (*tested, *calibrated))
        model = release(folder, name, calibrated, options)
        out = Path(options.runs) / "folds" / options.architecture / "-".join(tested)
        if not (out / "metrics.json").is_file():
            run("export", "evaluate", str(model), str(options.data_root / "tnbc"),
                "--groups", ",".join(tested), "--out", str(out))  # fmt: skip


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for function in (architectures, folds):
        command = commands.add_parser(function.__name__, help=function.__doc__)
        command.set_defaults(function=function)
        command.add_argument("--data-root", type=Path, default=Path("data"))
        command.add_argument("--encoder-dir", type=Path, help="folder of .h5 weight files")
        command.add_argument("--runs", default="runs")
        command.add_argument("--recipe", default=None if function is architectures else FOLD_RECIPE)
        if function is architectures:
            command.add_argument("--only", nargs="*", choices=ARCHITECTURES)
        else:
            command.add_argument("--architecture", default=ARCHITECTURES[0], choices=ARCHITECTURES)
    options = parser.parse_args()
    options.function(options)


if __name__ == "__main__":
    main()
