"""The segmentation that proves a model before it serves: at start-up, at each swap, in `doctor`."""

from dataclasses import dataclass
from time import perf_counter

from service.errors import ModelContractError
from service.inference.golden import canary_tile
from service.inference.precision import Precision
from service.segmenter import Segmenter


@dataclass(frozen=True, slots=True)
class Canary:
    """The result of the segmentation that each model makes before it serves.

    Attributes:
        model: `name:version` of the model.
        provider: Execution provider that really ran it.
        precision: What it computed in.
        duration_ms: Milliseconds of the second, warm run.
    """

    model: str
    provider: str
    precision: Precision
    duration_ms: float


def sing(segmenter: Segmenter) -> Canary:
    """Segment the canary image, once to warm everything up and once to time it.

    Args:
        segmenter: Of the model.

    Raises:
        ModelContractError: The result has not the shape of the image.
    """
    session = segmenter.session
    name = f"{session.contract.name}:{session.contract.version}"
    side_px = session.contract.input.tile_px
    pixels = canary_tile(side_px)
    segmenter.segment(pixels)
    start_s = perf_counter()
    labels = segmenter.segment(pixels).labels
    duration_ms = (perf_counter() - start_s) * 1000.0
    if labels.shape != (side_px, side_px):
        raise ModelContractError(f"{name} answers a {side_px} px image with {labels.shape}.")
    return Canary(
        model=name,
        provider=session.provider,
        precision=session.precision,
        duration_ms=round(duration_ms, 3),
    )
