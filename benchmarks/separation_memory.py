"""Peak memory of separation and measurement, bytes a pixel, where nearly everything is nucleus.

python -m benchmarks.separation_memory
"""

import resource

import numpy as np

from service.segmentation.instances import separate
from service.segmentation.measurements import measure

SIDE_PX = 4000
GRID_PX = 40


def peak_bytes() -> int:
    """Return the greatest resident size of this process so far (Linux counts it in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Separate and measure a field of square nuclei that almost touch, and print the growth."""
    maps = np.full((SIDE_PX, SIDE_PX, 2), 255, np.uint8)
    maps[::GRID_PX] = 0
    maps[:, ::GRID_PX] = 0
    before = peak_bytes()
    labels = separate(maps, probability_threshold=0.5, seed_threshold=0.5, min_area_px=4)
    nuclei = measure(labels, np.ascontiguousarray(maps[..., 0]))
    growth = (peak_bytes() - before) / SIDE_PX**2
    print(f"{SIDE_PX} x {SIDE_PX} px, {len(nuclei)} nuclei: {growth:.0f} bytes a pixel")


if __name__ == "__main__":
    main()
