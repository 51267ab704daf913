"""Makes a result a second time, and compares: same image, same model file, same parameters."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.errors import InvalidParameterError
from service.images.decode import ImageLimits, decode_image
from service.inference.repository import ModelRepository
from service.outputs.digests import digest_labels, digest_pixels
from service.outputs.report import ReportedResult, reported_result
from service.provenance.statement import recorded_labels
from service.segmentation_result import SegmentOptions
from service.segmenter import Segmenter


@dataclass(frozen=True, slots=True)
class Replay:
    """A result and what came out the second time.

    Attributes:
        recorded: The result of the file.
        recorded_labels_sha256: Digest of its labels, from its statement; None where not signed.
        count: Number of nuclei now.
        labels_sha256: Digest of the labels now.
        provider: Execution provider that ran now.
    """

    recorded: ReportedResult
    recorded_labels_sha256: str | None
    count: int
    labels_sha256: str
    provider: str

    @property
    def same_count(self) -> bool:
        """Whether as many nuclei were found."""
        return self.count == self.recorded.count

    @property
    def same_labels(self) -> bool | None:
        """Whether every pixel has the same label; None where the result tells no digest."""
        if self.recorded_labels_sha256 is None:
            return None
        return self.labels_sha256 == self.recorded_labels_sha256


def replay_result(
    document: Mapping[str, Any],
    image: bytes,
    repository: ModelRepository,
    *,
    limits: ImageLimits,
    max_batch_tiles: int,
) -> Replay:
    """Segment an image again as a result says that it was segmented.

    The signature is not looked at: `verify` does that, without a model.

    Args:
        document: The JSON answer.
        image: The image file.
        repository: Models, among them the one that made the result.
        limits: Bounds on the image.
        max_batch_tiles: As the service has it.

    Raises:
        InvalidParameterError: The image or the model file is another, so that a comparison would
            mean nothing.
        UnknownModelError: The model is not in the repository.
        KaryonError: The image is refused.
        ValueError: The document is no result.
    """
    recorded = reported_result(document)
    if hashlib.sha256(image).hexdigest() != recorded.input_sha256:
        raise InvalidParameterError(
            "The image is another than the one segmented.", parameter="--image"
        )
    decoded = decode_image(image, limits)
    if digest_pixels(decoded.pixels) != recorded.pixel_sha256:
        raise InvalidParameterError(
            "The image file decodes to other pixels here; the decoder has changed.",
            parameter="--image",
        )
    session = repository.get(f"{recorded.model_name}:{recorded.model_version}")
    if session.digest != recorded.model_digest:
        raise InvalidParameterError(
            f"{recorded.model_name}:{recorded.model_version} is another file here"
            f" ({session.digest}) than the one that made the result ({recorded.model_digest}).",
            parameter="--models-dir",
        )
    augmentation = document["parameters"].get("test_time_augmentation", "none")
    segmenter = Segmenter(
        session,
        max_batch_tiles=max_batch_tiles,
        max_pixels=limits.max_pixels,
        test_time_augmentation=augmentation,
    )
    options = SegmentOptions(
        probability_threshold=recorded.thresholds.probability,
        min_area_px=recorded.thresholds.min_area_px,
        # What came from the file's tags comes from there again.
        mpp=recorded.mpp if recorded.mpp_source == "parameter" else None,
    )
    segmentation = segmenter.segment(decoded.pixels, decoded.mpp, options)
    return Replay(
        recorded=recorded,
        recorded_labels_sha256=recorded_labels(document),
        count=segmentation.count,
        labels_sha256=digest_labels(segmentation.labels),
        provider=session.provider,
    )
