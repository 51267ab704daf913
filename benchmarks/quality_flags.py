"""How often each quality flag fires, on clean images and on images spoilt on purpose.

    python -m benchmarks.quality_flags MODEL.onnx DATA_DIR [--groups 07,08] [--reference FILE.json]

Every image, and every quarter of it, goes through the service's own segmentation as it is, blurred,
with its hue turned, at half its resolution (still presented as the model's own) and as an empty
field: its glass colour, with and without noise, and its mean colour. What counts is the share on
which the flag meant for the change fires, and, on clean images, how rarely it does. `--reference`
takes the place of the statistics in the model file. Time is processor time of one core.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from export.evaluate import choose_samples
from export.spoil import Pixels, add_noise, blur, halve, turn_hue
from service.inference.session import ModelSession
from service.segmentation.quality import assess_quality
from service.segmentation.quality_reference import QualityReference
from service.segmentation.tiling import extract, plan_tiles, stitch
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


SPOILT: list[tuple[str, str, Callable[[Pixels], Pixels]]] = [
    ("clean", "", lambda p: p),
    ("clean, JPEG quality 80", "", _jpeg),
    ("clean, noise 2", "", lambda p: add_noise(p, 2)),
    ("blur, sigma 2 px", "blur", lambda p: blur(p, 2.0)),
    ("blur, sigma 3 px", "blur", lambda p: blur(p, 3.0)),
    ("blur 2.5 px, then JPEG 80", "blur", lambda p: _jpeg(blur(p, 2.5))),
    ("blur 2.5 px, then noise 2", "blur", lambda p: add_noise(blur(p, 2.5), 2)),
    *(
        (f"hue turned {turn:+d} degrees", "stain_shift", lambda p, turn=turn: turn_hue(p, turn))
        for turn in (-90, -45, -30, -20, 20, 30, 36, 45, 60, 90, 180)
    ),
    ("half resolution", "magnification_mismatch", halve),
    ("blank: glass colour", "too_little_tissue", lambda p: _flat(_glass(p), p, 0)),
    ("blank: glass, noise 5", "too_little_tissue", lambda p: _flat(_glass(p), p, 5)),
    ("blank: mean colour", "too_little_tissue", lambda p: _flat(p.mean(axis=(0, 1)), p, 2)),
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


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--groups", help="only these patients; all by default")
    parser.add_argument("--clean-only", action="store_true", help="only images as they are")
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
    images = [piece for sample in samples for piece in pieces(sample.read()[0])]
    print(
        f"{len(samples)} images, {len(images)} with their quarters; share on which a flag fires\n"
    )
    print("| images | " + " | ".join(FLAGS) + " | review |\n|---|" + "---|" * (len(FLAGS) + 1))
    for title, meant, spoil in SPOILT[:1] if arguments.clean_only else SPOILT:
        found = [segmenter.segment(spoil(image)) for image in images]
        cells = []
        for name in FLAGS:
            flags = [flag for result in found for flag in result.quality if flag.name == name]
            share = float(np.mean([flag.fired for flag in flags]))
            cells.append(f"**{share:.1%}**" if name == meant else f"{share:.1%}")
        review = float(np.mean([result.review_recommended for result in found]))
        print(f"| {title} | " + " | ".join(cells) + f" | {review:.1%} |", flush=True)
    elapsed_ms = time_ms(segmenter, session, images[0], repeats=50)
    height, width = images[0].shape[:2]
    print(f"\nall flags of one {width}x{height} image: {elapsed_ms:.1f} ms of one core")


if __name__ == "__main__":
    main()
