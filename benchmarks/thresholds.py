"""Does a threshold for nuclei, beside the one for pixels, pay on images that chose neither?

Chooses thresholds on some patients twice, without and with the least mean probability of a nucleus,
and measures both choices there and on other data. Made the table of docs/what-the-numbers-mean.md.

    python -m benchmarks.thresholds MODEL.onnx data/tnbc 07,08 data/monuseg_breast data/nucls
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from export.calibrate import MIN_MEAN_PROBABILITIES, CalibrationImage, calibrate, run_network
from export.evaluate import choose_samples
from service.inference.contract import SeparationSpec
from service.inference.session import ModelSession
from service.segmentation.instances import separate
from training.matching import count_instances, count_pixels


def measure(images: Sequence[CalibrationImage], separation: SeparationSpec, mpp: float) -> str:
    """Pooled figures of the images under these thresholds."""
    found = [
        separate(
            image.maps,
            probability_threshold=separation.probability_threshold,
            seed_threshold=separation.seed_threshold,
            min_area_px=separation.min_area_um2 / mpp**2,
            min_mean_probability=separation.min_mean_probability,
        )
        for image in images
    ]
    pairs = list(zip(images, found, strict=True))
    pixels = [count_pixels(image.labels, labels) for image, labels in pairs]
    nuclei = [count_instances(image.labels, labels) for image, labels in pairs]
    all_pixels = sum(pixels[1:], start=pixels[0])
    all_nuclei = sum(nuclei[1:], start=nuclei[0])
    bias = all_nuclei.predicted_count / all_nuclei.truth_count - 1
    return (
        f"Dice {all_pixels.dice:.3f}, F1@0.5 {all_nuclei.f1:.3f}, "
        f"PQ {all_nuclei.panoptic_quality:.3f}, count bias {bias:+.1%}"
    )


def main() -> None:
    """Print both choices, and a line for each data set."""
    parser = argparse.ArgumentParser(description="Choose thresholds twice and compare.")
    parser.add_argument("model", type=Path)
    parser.add_argument("chosen_on", type=Path, help="annotated folder")
    parser.add_argument("groups", help="its patients, comma-separated")
    parser.add_argument("others", type=Path, nargs="*", help="annotated folders")
    arguments = parser.parse_args()
    session = ModelSession.load(arguments.model, provider="cpu")
    mpp = session.contract.input.mpp
    own = run_network(session, choose_samples(arguments.chosen_on, arguments.groups))
    measured = {f"{arguments.chosen_on.name} {arguments.groups}": own}
    for folder in arguments.others:
        measured[folder.name] = run_network(session, choose_samples(folder, None))
    for means in ((0.0,), MIN_MEAN_PROBABILITIES):
        chosen = calibrate(own, mpp=mpp, min_mean_probabilities=means).separation
        print(
            f"probability {chosen.probability_threshold:g}, seed {chosen.seed_threshold:g}, "
            f"area {chosen.min_area_um2:g} um2, mean {chosen.min_mean_probability:g}"
        )
        for name, images in measured.items():
            print(f"  {name}: {measure(images, chosen, mpp)}")


if __name__ == "__main__":
    main()
