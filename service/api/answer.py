"""From a segmentation to the answer: plain dicts and NumPy arrays for orjson, or a PNG.

Everything here is blocking and runs on a worker. `service.api.schemas.SegmentationAnswer` is the
shape of the dicts.
"""

import base64
import dataclasses
import datetime as dt
import hashlib
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from service import __version__
from service.api.cache import StoredResult
from service.api.identity import ResultIdentity
from service.api.parameters import MaskEncoding, MaskKind, Part, SegmentParameters
from service.api.schemas import RESEARCH_USE_ONLY
from service.errands import Errand, Errands, Helpers
from service.images.decode import DecodedImage, ImageLimits, decode_image
from service.inference.session import ModelSession
from service.inference.ticket import Ticket
from service.outputs.digests import digest_labels, digest_pixels
from service.outputs.identity import OrderReference
from service.outputs.overlay import encode_overlay
from service.outputs.png import encode_binary, encode_labels, encode_map
from service.outputs.rle import encode_label_rles, encode_rle
from service.segmentation.measurements import Nucleus
from service.segmentation_result import Segmentation
from service.segmenter import Segmenter

SOFTWARE_NAME = "karyon"


@dataclass(frozen=True, slots=True)
class Result:
    """One segmented image, before any representation.

    Attributes:
        id: Identifier, new for each result.
        created_utc: ISO 8601 time.
        sha256: Of the image file's bytes, hexadecimal.
        pixel_sha256: Of the decoded pixels (`service.outputs.digests`).
        labels_sha256: Of the labels, likewise.
        upload_bytes: Size of the image file.
        identity: The laboratory's identifiers.
        image: The decoded image.
        segmentation: What was found in it.
        start_s: `time.perf_counter()` when work on it began.
        timings_ms: Milliseconds by stage so far.
        cached: Whether the segmentation was computed for an earlier request; `image` then has no
            pixels.
        order: The order that it answers, where one is known.
    """

    id: str
    created_utc: str
    sha256: str
    pixel_sha256: str
    labels_sha256: str
    upload_bytes: int
    identity: ResultIdentity
    image: DecodedImage
    segmentation: Segmentation
    start_s: float
    timings_ms: dict[str, float]
    cached: bool = False
    order: OrderReference | None = None


def _elapsed_ms(start_s: float) -> float:
    return (time.perf_counter() - start_s) * 1000.0


class _Digests(Errands):
    """Digests of an image and of its labels, made while others measure them.

    Attributes:
        of_image: Of the file and of the pixels, once the maps are made.
        of_labels: Of the labels, once they are made.
    """

    of_image: Errand[tuple[str, str]]
    of_labels: Errand[str]

    def __init__(
        self, data: bytes, pixels: NDArray[np.uint8], helpers: Helpers | None = None
    ) -> None:
        super().__init__(helpers)
        self._data, self._pixels = data, pixels

    def maps_made(self) -> None:
        data, pixels = self._data, self._pixels
        self.of_image = self.send(lambda: (hashlib.sha256(data).hexdigest(), digest_pixels(pixels)))

    def labels_made(self, labels: NDArray[np.int32]) -> None:
        self.of_labels = self.send(lambda: digest_labels(labels))


def make_result(
    data: bytes,
    segmenter: Segmenter,
    parameters: SegmentParameters,
    limits: ImageLimits,
    ticket: Ticket | None = None,
    helpers: Helpers | None = None,
) -> Result:
    """Decode and segment one image file.

    Args:
        data: The bytes of the file.
        segmenter: The model to use.
        parameters: What the caller asked for.
        limits: Bounds on the image.
        ticket: Class and deadline of the request.
        helpers: Who takes a part of the work; default nobody.

    Raises:
        KaryonError: The image or a parameter is refused, or the ticket has run out.
    """
    start_s = time.perf_counter()
    image = decode_image(data, limits)
    decoding_ms = _elapsed_ms(start_s)
    with _Digests(data, image.pixels, helpers) as digests:
        segmentation = segmenter.segment(
            image.pixels, image.mpp, parameters.segment_options(), ticket, digests
        )
        sha256, pixel_sha256 = digests.of_image.result()
        labels_sha256 = digests.of_labels.result()
    return Result(
        id=uuid.uuid4().hex,
        created_utc=_now_utc(),
        sha256=sha256,
        pixel_sha256=pixel_sha256,
        labels_sha256=labels_sha256,
        upload_bytes=len(data),
        identity=parameters.identity,
        image=image,
        segmentation=segmentation,
        start_s=start_s,
        timings_ms={"decoding": decoding_ms, **segmentation.timings_ms},
    )


def recall_result(
    stored: StoredResult,
    model: ModelSession,
    identity: ResultIdentity,
    *,
    sha256: str,
    upload_bytes: int,
    start_s: float,
) -> Result:
    """Make the result of this request from that of an earlier one.

    It has an id and a time of its own, as every answer has; `cached` and the missing stages in its
    timings tell that the model did not run.

    Args:
        stored: What was kept.
        model: The model that the request asks for, which made it.
        identity: The identifiers of this request.
        sha256: Of this request's file.
        upload_bytes: Size of this request's file.
        start_s: `time.perf_counter()` when work on this request began.
    """
    return Result(
        id=uuid.uuid4().hex,
        created_utc=_now_utc(),
        sha256=sha256,
        pixel_sha256=stored.pixel_sha256,
        labels_sha256=stored.labels_sha256,
        upload_bytes=upload_bytes,
        identity=identity,
        image=stored.image,
        segmentation=stored.segmentation(model),
        start_s=start_s,
        timings_ms={"lookup": _elapsed_ms(start_s)},
        cached=True,
    )


def _now_utc() -> str:
    now = dt.datetime.now(dt.UTC)
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def mask_png(result: Result, kind: MaskKind) -> bytes:
    """Return the mask of a result as a PNG file of the image's size.

    Raises:
        UnsupportedImageError: More nuclei than a 16-bit PNG can number.
    """
    segmentation = result.segmentation
    match kind:
        case "binary":
            return encode_binary(segmentation.labels)
        case "labels":
            return encode_labels(segmentation.labels)
        case "overlay":
            return encode_overlay(result.image.pixels, segmentation.labels)
        case "probability":
            return encode_map(segmentation.probability)
        case "distance":
            if segmentation.distance is None:
                raise RuntimeError("the distance map was not kept")
            return encode_map(segmentation.distance)


def _mask_document(result: Result, kind: MaskKind, encoding: MaskEncoding) -> dict[str, Any]:
    labels = result.segmentation.labels
    if encoding == "png":
        data = base64.b64encode(mask_png(result, kind)).decode("ascii")
        return {"kind": kind, "encoding": encoding, "data": data}
    if kind == "binary":
        return {"kind": kind, "encoding": encoding, "run_lengths": encode_rle(labels)}
    nuclei = [
        {"id": number, **run_lengths}
        for number, run_lengths in enumerate(encode_label_rles(labels), start=1)
    ]
    return {"kind": kind, "encoding": encoding, "nuclei": nuclei}


def known_mpp(segmentation: Segmentation) -> float | None:
    """Return micrometres a pixel where somebody said so, None where they are assumed."""
    return None if segmentation.mpp_source == "assumed_native" else segmentation.mpp


def _nucleus_document(nucleus: Nucleus, mpp: float | None) -> dict[str, Any]:
    return {
        "id": nucleus.id,
        "centroid_px": nucleus.centroid_px,
        "bounding_box_px": nucleus.bounding_box_px,
        "area_px": nucleus.area_px,
        "area_um2": None if mpp is None else nucleus.area_px * mpp * mpp,
        "contour_px": nucleus.contour_px,
        "mean_probability": nucleus.mean_probability,
    }


def _quality_document(segmentation: Segmentation) -> dict[str, Any]:
    fired = [flag.message for flag in segmentation.quality if flag.fired]
    return {
        "flags": [dataclasses.asdict(flag) for flag in segmentation.quality],
        "review_recommended": segmentation.review_recommended,
        "reasons": fired,
    }


def result_document(
    result: Result,
    *,
    mask: MaskKind = "binary",
    mask_encoding: MaskEncoding = "png",
    include: Sequence[Part] = (),
) -> dict[str, Any]:
    """Return the JSON answer as dicts, with NumPy arrays that orjson writes itself.

    Args:
        result: What was found.
        mask: Kind of mask.
        mask_encoding: How the mask is written.
        include: Optional parts.
    """
    segmentation, image = result.segmentation, result.image
    model = segmentation.model
    height_px, width_px = segmentation.labels.shape
    mpp = known_mpp(segmentation)
    document: dict[str, Any] = {
        "id": result.id,
        "status": "preliminary",
        "research_use_only": RESEARCH_USE_ONLY,
        "created_utc": result.created_utc,
        "identity": dataclasses.asdict(result.identity),
        "count": segmentation.count,
        "count_interval": (
            None
            if segmentation.count_interval is None
            else dataclasses.asdict(segmentation.count_interval)
        ),
        "density_per_mm2": segmentation.density_per_mm2,
        "foreground_fraction": segmentation.foreground_fraction,
        "mean_area_px": segmentation.mean_area_px,
        "median_area_px": segmentation.median_area_px,
        "mean_area_um2": segmentation.mean_area_um2,
        "median_area_um2": segmentation.median_area_um2,
        "model": {
            "name": model.contract.name,
            "version": model.contract.version,
            "digest": model.digest,
        },
        "provider": model.provider,
        "precision": model.precision,
        "cached": result.cached,
        "software": {"name": SOFTWARE_NAME, "version": __version__},
        "image": {
            "width": width_px,
            "height": height_px,
            "format": image.format,
            "sha256": result.sha256,
            "pixel_sha256": result.pixel_sha256,
            "mpp": segmentation.mpp,
            "mpp_source": segmentation.mpp_source,
            "mpp_tag": image.mpp_source if segmentation.mpp_source == "image" else None,
            "notes": list(image.notes),
        },
        "parameters": {
            "threshold": segmentation.options.probability_threshold,
            "seed_threshold": segmentation.options.seed_threshold,
            "min_area_px": segmentation.options.min_area_px,
            "min_mean_probability": segmentation.options.min_mean_probability,
            "test_time_augmentation": segmentation.options.test_time_augmentation,
            "mask": mask,
            "mask_encoding": mask_encoding,
            "include": sorted(set(include), reverse=True),
        },
    }
    if result.order is not None:
        document["order"] = dataclasses.asdict(result.order)
    document["quality"] = _quality_document(segmentation)
    encoding_start_s = time.perf_counter()
    if "nuclei" in include:
        document["nuclei"] = [_nucleus_document(item, mpp) for item in segmentation.nuclei]
    if "mask" in include:
        document["mask"] = _mask_document(result, mask, mask_encoding)
    result.timings_ms["encoding"] = _elapsed_ms(encoding_start_s)
    document["timings_ms"] = _with_total(result)
    return document


def _with_total(result: Result) -> dict[str, float]:
    """Return the timings and their total, which also holds what no stage owns (hashing, say)."""
    total_ms = result.timings_ms.get("queue", 0.0) + _elapsed_ms(result.start_s)
    return {
        stage: round(value, 3) for stage, value in {**result.timings_ms, "total": total_ms}.items()
    }


def to_json(document: dict[str, Any]) -> bytes:
    """Serialise an answer; contours are NumPy arrays and are written as nested lists."""
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def png_headers(result: Result) -> dict[str, str]:
    """Return the headers that carry the figures of an answer that is not our own JSON."""
    model = result.segmentation.model
    interval = result.segmentation.count_interval
    identity = {
        "X-Karyon-Accession": result.identity.accession,
        "X-Karyon-Specimen-Id": result.identity.specimen_id,
        "X-Karyon-Order-Id": result.identity.order_id,
    }
    headers = {
        **{name: value for name, value in identity.items() if value is not None},
        "X-Karyon-Id": result.id,
        "X-Karyon-Count": str(result.segmentation.count),
        "X-Karyon-Model": f"{model.contract.name}:{model.contract.version}",
        "X-Karyon-Model-Digest": model.digest,
        "X-Karyon-Provider": model.provider,
        "X-Karyon-Precision": model.precision,
        "X-Karyon-Status": "preliminary",
        "X-Karyon-Review-Recommended": str(result.segmentation.review_recommended).lower(),
    }
    if interval is not None:
        headers["X-Karyon-Count-Interval"] = (
            f"{interval.lower}-{interval.upper}; level={interval.level:g}"
        )
    return headers
