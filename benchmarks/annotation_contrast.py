"""How often `training check` doubts the right annotation, and notices one of another image.

    python -m benchmarks.annotation_contrast data/tnbc data/nucls data/monuseg_breast data/nuinsseg

For each folder: the share of images whose own annotation is said not to lie on dark nuclei, and the
share of exchanged annotations (that of each of the next three images of the same size) that is.
What docs/training.md says of it comes from here; of folders of more than 100 images every sixth is
read.
"""

import sys
from pathlib import Path

from training.datasets import read_dataset
from training.preview import image_doubts

WORDS = "not on dark nuclei"
MANY = 100
EVERY = 6
NEXT = 3


def main(folders: list[str]) -> None:
    """Print a line a folder."""
    print(f"{'folder':>16}  images  own doubted  exchanged  noticed")
    for folder in folders:
        samples = read_dataset(Path(folder))
        read = [sample.read() for sample in samples[:: EVERY if len(samples) > MANY else 1]]
        own = sum(WORDS in " ".join(image_doubts(*pair)) for pair in read)
        exchanged = [
            WORDS in " ".join(image_doubts(pixels, other))
            for number, (pixels, labels) in enumerate(read)
            for other in (read[(number + k) % len(read)][1] for k in range(1, NEXT + 1))
            if other.shape == labels.shape and other.any()
        ]
        share = sum(exchanged) / max(len(exchanged), 1)
        print(f"{Path(folder).name:>16}  {len(read):6}  {own:11}  {len(exchanged):9}  {share:7.1%}")


if __name__ == "__main__":
    main(sys.argv[1:])
