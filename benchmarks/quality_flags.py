"""How often each quality flag fires, on clean images and on images spoilt on purpose.

    python -m benchmarks.quality_flags MODEL.onnx DATA_DIR [--groups 07,08] [--reference FILE.json]

Every image, and every quarter of it (`--whole`: images only), goes through the service's own
segmentation as it is, blurred, with its hue turned (in HSV, value and saturation kept), with
swapped channels, negative and grey, at half its resolution (presented as the model's own), with a
wrong `mpp`, and as an empty field: white, black, grey, its glass colour, with and without noise,
and its mean colour. What counts is the share on which the flag meant for the change fires, and, on
clean images, how rarely it does; of all pieces, and behind it of whole images. `--rows` measures
only the changes that match a regular expression. `--reference` takes the place of the statistics in
the model file. Time is processor time of one core.
"""

import argparse
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from export.evaluate import choose_samples
from export.spoil import (
    Pixels,
    add_noise,
    blur,
    enlarge_again,
    grey,
    halve,
    invert,
    swap_channels,
    turn_hue,
)
from service.inference.session import ModelSession
from service.segmentation.quality import assess_quality
from service.segmentation.quality_reference import QualityReference
from service.segmentation.tiling import extract, plan_tiles, stitch
from service.segmentation_result import SegmentOptions
from service.segmenter import Segmenter

FLAGS = ("blur", "too_little_tissue", "stain_shift", "magnification_mismatch", "merged_nuclei")


def _flat(colour: NDArray[np.floating], like: Pixels, noise: float) -> Pixels:
    random = np.random.default_rng(0)
    field = random.normal(colour, noise, like.shape) if noise else np.full(like.shape, colour)
    return np.clip(np.round(field), 0, 255).astype(np.uint8)


def _glass(pixels: Pixels) -> NDArray[np.floating]:
    return np.percentile(pixels.reshape(-1, 3), 99, axis=0)


def _jpeg(pixels: Pixels) -> Pixels:
    encoded = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(np.asarray(decoded)[..., ::-1]).astype(np.uint8)


def _resample(pixels: Pixels, factor: float) -> Pixels:
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return np.asarray(
        cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=method), np.uint8
    )


def _plain(level: int, noise: float) -> Callable[[Pixels], Pixels]:
    return lambda pixels: _flat(np.full(3, level, dtype=np.float64), pixels, noise)


@dataclass(frozen=True, slots=True)
class Change:
    """One way to spoil an image.

    Attributes:
        title: What is done.
        meant: The flag that should notice; empty where none should, or where it is only looked at.
        spoil: Does it.
        mpp_ratio: The resolution given over the true one.
    """

    title: str
    meant: str
    spoil: Callable[[Pixels], Pixels] = lambda pixels: pixels
    mpp_ratio: float = 1.0


CHANGES: Final[list[Change]] = [
    Change("clean", ""),
    Change("clean, JPEG quality 80", "", _jpeg),
    Change("clean, noise 2", "", lambda p: add_noise(p, 2)),
    Change("blur, sigma 1.5 px", "blur", lambda p: blur(p, 1.5)),
    Change("blur, sigma 2 px", "blur", lambda p: blur(p, 2.0)),
    Change("blur, sigma 4 px", "blur", lambda p: blur(p, 4.0)),
    Change("blur 2.5 px, then JPEG 80", "blur", lambda p: _jpeg(blur(p, 2.5))),
    Change("blur 2.5 px, then noise 2", "blur", lambda p: add_noise(blur(p, 2.5), 2)),
    *(
        Change(
            f"hue turned {turn:+d} degrees", "stain_shift", lambda p, turn=turn: turn_hue(p, turn)
        )
        for turn in (-90, -45, -30, -20, 20, 25, 30, 36, 45, 60, 90, 180)
    ),
    Change("red and blue swapped", "stain_shift", lambda p: swap_channels(p, (2, 1, 0))),
    Change("green and blue swapped", "stain_shift", lambda p: swap_channels(p, (0, 2, 1))),
    Change("red and green swapped", "stain_shift", lambda p: swap_channels(p, (1, 0, 2))),
    Change("channels as GBR", "stain_shift", lambda p: swap_channels(p, (1, 2, 0))),
    Change("channels as BRG", "stain_shift", lambda p: swap_channels(p, (2, 0, 1))),
    Change("negative", "stain_shift", invert),
    Change("grey", "stain_shift", grey),
    Change("half resolution", "magnification_mismatch", halve),
    Change("half resolution, 1 px of 4", "magnification_mismatch", lambda p: p[::2, ::2].copy()),
    Change("mpp given twice too large", "magnification_mismatch", mpp_ratio=2.0),
    Change("0.67 of the resolution", "", lambda p: _resample(p, 2 / 3)),
    Change("0.8 of the resolution", "", lambda p: _resample(p, 0.8)),
    Change("half resolution, enlarged again", "blur", enlarge_again),
    Change("half, enlarged, JPEG 80", "", lambda p: _jpeg(enlarge_again(p))),
    Change("blank: white", "too_little_tissue", _plain(255, 0)),
    Change("blank: black, noise 2", "too_little_tissue", _plain(0, 2)),
    Change("blank: grey, noise 5", "too_little_tissue", _plain(128, 5)),
    Change("blank: glass colour", "too_little_tissue", lambda p: _flat(_glass(p), p, 0)),
    Change("blank: glass, noise 5", "too_little_tissue", lambda p: _flat(_glass(p), p, 5)),
    Change("blank: mean colour", "too_little_tissue", lambda p: _flat(p.mean(axis=(0, 1)), p, 2)),
]


def pieces(pixels: Pixels) -> list[Pixels]:
    """The image and its quarters."""
    y, x = pixels.shape[0] // 2, pixels.shape[1] // 2
    corners = [(0, 0), (0, x), (y, 0), (y, x)]
    quarters = [np.ascontiguousarray(pixels[t : t + y, left : left + x]) for t, left in corners]
    return [pixels, *quarters]


def time_ms(segmenter: Segmenter, session: ModelSession, pixels: Pixels, repeats: int) -> float:
    """Median processor time of all flags of one image, in milliseconds."""
    spec, separation = session.contract.input, session.contract.separation
    plan = plan_tiles(*pixels.shape[:2], spec.tile_px, spec.halo_px, spec.divisor)
    tiles = [session.run(extract(pixels, plan, i, i + 1)) for i in range(len(plan))]
    maps = stitch(np.concatenate(tiles), plan)
    nuclei = segmenter.segment(pixels).nuclei
    reference = QualityReference.from_values(session.contract.quality_reference)
    times = []
    for _ in range(repeats):
        start_s = time.thread_time()
        assess_quality(
            pixels,
            maps,
            nuclei,
            reference,
            probability_threshold=separation.probability_threshold,
            seed_threshold=separation.seed_threshold,
            mpp=spec.mpp,
        )
        times.append((time.thread_time() - start_s) * 1000)
    return float(np.median(times))


def _share(fired: list[bool], of_sample: int) -> str:
    """Share of all pieces, and how many of the whole images, which come first of each sample."""
    whole = fired[::of_sample]
    return f"{np.mean(fired):.1%} ({sum(whole)}/{len(whole)})"


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--groups", help="only these patients; all by default")
    parser.add_argument("--clean-only", action="store_true", help="only images as they are")
    parser.add_argument("--whole", action="store_true", help="no quarters")
    parser.add_argument("--rows", default="", help="only changes that match this expression")
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    cv2.setNumThreads(arguments.threads)
    session = ModelSession.load(arguments.model, provider="cpu", threads=arguments.threads)
    if arguments.reference:
        values = json.loads(arguments.reference.read_text())
        session.contract = session.contract.model_copy(update={"quality_reference": values})
    segmenter = Segmenter(session)
    samples = choose_samples(arguments.data, arguments.groups)
    of_sample = 1 if arguments.whole else 5
    images = [piece for sample in samples for piece in pieces(sample.read()[0])[:of_sample]]
    print(
        f"{len(images)} pieces of {len(samples)} images; share of the pieces on which a flag fires,"
        " and the number of whole images among them\n"
    )
    print("| images | " + " | ".join(FLAGS) + " | review |\n|---|" + "---|" * (len(FLAGS) + 1))
    mpp = session.contract.input.mpp
    chosen = [change for change in CHANGES if re.search(arguments.rows, change.title)]
    for change in CHANGES[:1] if arguments.clean_only else chosen:
        options = SegmentOptions(mpp=mpp * change.mpp_ratio)
        found = [segmenter.segment(change.spoil(image), options=options) for image in images]
        cells = []
        for name in FLAGS:
            flags = [flag for result in found for flag in result.quality if flag.name == name]
            share = _share([flag.fired for flag in flags], of_sample)
            cells.append(f"**{share}**" if name == change.meant else share)
        cells.append(_share([result.review_recommended for result in found], of_sample))
        print(f"| {change.title} | " + " | ".join(cells) + " |", flush=True)
    elapsed_ms = time_ms(segmenter, session, images[0], repeats=50)
    height, width = images[0].shape[:2]
    print(f"\nall flags of one {width}x{height} image: {elapsed_ms:.1f} ms of one core")


if __name__ == "__main__":
    main()
