"""Does the merged-nuclei flag fire where nuclei are in truth merged?

    python -m benchmarks.merged_nuclei MODEL.onnx data/tnbc data/monuseg_breast [--groups 07,08]

Every image, and every quarter of it, is separated as the service does, with touching nuclei left
together (plain connected components), and at half its resolution. An outline is in truth merged
where it covers at least half of two annotated nuclei or more. The tables say how often the flag
fires, and by how many outlines are merged; `--groups` narrows the first folder.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from export.evaluate import choose_samples
from export.spoil import Pixels, halve
from service.inference.session import ModelSession
from service.segmentation.instances import separate
from service.segmentation.measurements import measure
from service.segmentation.quality_figures import LEAST_NUCLEI, merged_share
from service.segmentation.quality_reference import QualityReference
from service.segmentation.tiling import extract, plan_tiles, stitch

Labels = NDArray[np.int32]
COMPONENTS_SEED: Final = 0.004
"""A distance that every pixel of the foreground reaches: components stay whole."""
BINS: Final = (0.0, 0.02, 0.05, 0.1, 0.15, 0.25, 1.0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One image: the share of outlines that are in truth merged, and the flag's figure."""

    truth: float
    figure: float


def truly_merged(truth: Labels, found: Labels) -> float:
    """Share of the outlines found that cover at least half of two annotated nuclei or more.

    Args:
        truth: Annotated nuclei, shape (H, W), 0 background.
        found: Nuclei found, of the same shape, 0 background, 1..n without gaps.
    """
    count = int(found.max())
    if not count:
        return 0.0
    pairs, overlap_px = np.unique(
        np.stack([truth.ravel(), found.ravel()])[:, (truth.ravel() > 0) & (found.ravel() > 0)],
        axis=1,
        return_counts=True,
    )
    covered = overlap_px * 2 >= np.bincount(truth.ravel())[pairs[0]]
    swallowed = np.bincount(pairs[1][covered], minlength=count + 1)
    return float((swallowed[1:] > 1).mean())


def run(session: ModelSession, pixels: Pixels) -> Pixels:
    """The maps of an image."""
    spec = session.contract.input
    plan = plan_tiles(*pixels.shape[:2], spec.tile_px, spec.halo_px, spec.divisor)
    tiles = [session.run(extract(pixels, plan, i, i + 1)) for i in range(len(plan))]
    return stitch(np.concatenate(tiles), plan)


def cuts(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    """The whole, and its quarters."""
    yield slice(None), slice(None)
    for rows in (slice(0, height // 2), slice(height // 2, None)):
        for columns in (slice(0, width // 2), slice(width // 2, None)):
            yield rows, columns


def outcomes(
    session: ModelSession, maps: Pixels, truth: Labels, seed_threshold: float
) -> list[Outcome]:
    """Judge the image and its quarters, but those with fewer nuclei than the flag needs."""
    spec = session.contract.separation
    found = []
    for rows, columns in cuts(*truth.shape):
        part = np.ascontiguousarray(maps[rows, columns])
        labels = separate(
            part,
            probability_threshold=spec.probability_threshold,
            seed_threshold=seed_threshold,
            min_area_px=spec.min_area_um2 / session.contract.input.mpp**2,
            min_mean_probability=spec.min_mean_probability,
        )
        nuclei = measure(labels, np.ascontiguousarray(part[..., 0]))
        figure = merged_share(nuclei)
        if figure is not None:
            found.append(Outcome(truly_merged(truth[rows, columns], labels), figure))
    return found


def _half_labels(labels: Labels) -> Labels:
    size = labels.shape[1] // 2, labels.shape[0] // 2
    shrunk = cv2.resize(labels.astype(np.float32), size, interpolation=cv2.INTER_NEAREST)
    return np.asarray(shrunk).astype(np.int32)


SPOILT: Final[list[tuple[str, Callable[[Pixels], Pixels], bool]]] = [
    ("as the service separates", lambda pixels: pixels, False),
    ("touching nuclei left together", lambda pixels: pixels, True),
    ("half resolution", halve, False),
]


def main() -> None:
    """Measure, and print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--groups", help="only these patients of the first folder")
    arguments = parser.parse_args()
    session = ModelSession.load(arguments.model, provider="cpu", threads=1)
    reference = QualityReference.from_values(session.contract.quality_reference)
    most = reference.most_merged_share
    if most is None:
        parser.error(f"{arguments.model} states no threshold: `python -m export reference`")
    seed = session.contract.separation.seed_threshold
    gathered: list[Outcome] = []
    print(f"fires above {most:.1%} odd outlines of {LEAST_NUCLEI} or more\n")
    print("| images | pieces | in truth merged, mean | the flag's figure, mean | fires |")
    print("|---|---|---|---|---|")
    for title, spoil, together in SPOILT:
        found = []
        for number, folder in enumerate(arguments.data):
            for sample in choose_samples(folder, arguments.groups if number == 0 else None):
                pixels, truth = sample.read()
                maps = run(session, spoil(pixels))
                halved = maps.shape[:2] != truth.shape
                labels = _half_labels(truth) if halved else truth
                found += outcomes(session, maps, labels, COMPONENTS_SEED if together else seed)
        truths, figures = np.array([(o.truth, o.figure) for o in found]).T
        print(
            f"| {title} | {len(found)} | {truths.mean():.1%} | {figures.mean():.1%} | "
            f"{(figures > most).mean():.1%} |",
            flush=True,
        )
        gathered += found
    truths, figures = np.array([(o.truth, o.figure) for o in gathered]).T
    print("\n| in truth merged | pieces | the flag's figure, mean | fires |\n|---|---|---|---|")
    for low, high in pairwise(BINS):
        inside = (truths >= low) & (truths < high)
        if inside.any():
            share = (figures[inside] > most).mean()
            print(
                f"| {low:.0%} to {high:.0%} | {inside.sum()} | {figures[inside].mean():.1%} | "
                f"{share:.1%} |"
            )
    ranks = [np.argsort(np.argsort(values)) for values in (truths, figures)]
    print(f"\nrank correlation of both shares: {np.corrcoef(np.stack(ranks))[0, 1]:.2f}")


if __name__ == "__main__":
    main()
