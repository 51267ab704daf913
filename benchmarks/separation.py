"""How long it takes to turn maps into nuclei, on one core.

    python -m benchmarks.separation [LABELS.png] [--repeats 200]

An instance label image is rendered as the maps that a perfect model would give; `separate` then
finds the nuclei again, from both channels and from the probability alone. Without an argument it
takes TNBC patient 07's image 3 (512 x 512, 295 nuclei) where the project's data lies beside the
checkout, else the committed patient 07's image 1 (155 nuclei). Times are processor time, so that a
busy machine can be measured on. `measure` is timed on the result.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from service.segmentation.instances import separate
from service.segmentation.measurements import measure

REPOSITORY = Path(__file__).resolve().parents[1]
CROWDED = REPOSITORY.parent / "shared" / "data" / "tnbc" / "labels" / "tnbc_p07_3.png"
COMMITTED = REPOSITORY / "tests" / "data" / "labels" / "tnbc_p07_1.png"


def render_maps(labels: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Return ideal maps (H, W, 2) of nuclei grown by a pixel, so that neighbours touch."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    around = cv2.dilate(labels.astype(np.uint16), cross)
    labels = np.where(labels > 0, labels, around).astype(np.int32)
    framed = np.pad(labels, 1)
    distance = np.zeros(framed.shape, dtype=np.float32)
    for label in range(1, int(labels.max()) + 1):
        own = framed == label
        if own.any():
            depth = cv2.distanceTransform(own.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
            distance[own] = depth[own] / depth.max()
    maps = np.stack([labels > 0, distance[1:-1, 1:-1]], axis=-1)
    return np.round(maps * 255).astype(np.uint8)


def median_ms(function: Callable[[], object], repeats: int) -> float:
    """Return the median processor time of this thread, in milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        function()
        times.append(time.thread_time() - start)
    return float(np.median(times)) * 1000


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = CROWDED if CROWDED.is_file() else COMMITTED
    parser.add_argument("labels", nargs="?", type=Path, default=default)
    parser.add_argument("--repeats", type=int, default=200)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    image = cv2.imread(str(arguments.labels), cv2.IMREAD_UNCHANGED)
    if image is None:
        parser.error(f"cannot read {arguments.labels}")
    truth = image.astype(np.int32)
    maps = render_maps(truth)
    # In the service a model has run before; its large buffers make the C library keep freed memory
    # for the next call instead of faulting it in anew, which would cost another 2 to 3 ms.
    np.ones(16 << 20, dtype=np.uint8).sum()

    def run(channels: int) -> NDArray[np.int32]:
        return separate(
            np.ascontiguousarray(maps[..., :channels]),
            probability_threshold=0.5,
            seed_threshold=0.5,
            min_area_px=20,
        )

    nucleus = np.ascontiguousarray(maps[..., 0])
    components_ms = median_ms(lambda: cv2.connectedComponents(nucleus), arguments.repeats)
    print(f"{arguments.labels.name}: {truth.shape[1]} x {truth.shape[0]} px, ", end="")
    print(f"{len(np.unique(truth)) - 1} nuclei")
    print(f"{'':36}{'nuclei':>8}{'ms':>8}{'x components':>14}")
    rows: list[tuple[str, int, float]] = [
        ("cv2.connectedComponents", cv2.connectedComponents(nucleus)[0] - 1, components_ms)
    ]
    for channels, name in (
        (1, "separate, probability alone"),
        (2, "separate, probability and distance"),
    ):
        elapsed_ms = median_ms(partial(run, channels), arguments.repeats)
        rows.append((name, int(run(channels).max()), elapsed_ms))
    labels = run(2)
    measure_ms = median_ms(lambda: measure(labels, nucleus), arguments.repeats)
    rows.append(("measure", len(measure(labels, nucleus)), measure_ms))
    for name, count, elapsed_ms in rows:
        print(f"{name:36}{count:8}{elapsed_ms:8.2f}{elapsed_ms / components_ms:14.1f}")


if __name__ == "__main__":
    main()
