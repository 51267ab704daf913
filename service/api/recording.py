"""From a finished segmentation to the record that is kept of it."""

import functools
import hashlib
import platform
from typing import Any, Protocol

import cv2
import numpy as np
import onnxruntime

from service import __version__
from service.api.answer import Result, result_document
from service.api.parameters import SegmentParameters
from service.outputs.png import encode_labels
from service.records.results import NewResult


class Identity(Protocol):
    """Which case a result belongs to."""

    @property
    def accession(self) -> str | None:
        """Identifier of the case."""

    @property
    def specimen_id(self) -> str | None:
        """Identifier of the specimen."""

    @property
    def order_id(self) -> str | None:
        """Identifier of the order."""


@functools.cache
def software_versions() -> dict[str, str]:
    """Return the versions of everything that has a part in a count."""
    return {
        "karyon": __version__,
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "opencv": cv2.__version__,
        "numpy": np.__version__,
    }


def make_record(
    result: Result,
    parameters: SegmentParameters,
    *,
    caller_id: str,
    identity: Identity | None,
    image: bytes | None,
) -> NewResult:
    """Return what is kept of a result. Blocking; call it once the answer is encoded.

    Args:
        result: What was found.
        parameters: What the caller asked for.
        caller_id: Who asked.
        identity: Which case it belongs to, if the caller said.
        image: The file as sent, where images are kept.
    """
    # The time that encoding the answer took is not that of encoding the record.
    timings_ms = dict(result.timings_ms)
    document: dict[str, Any] = result_document(
        result, mask=parameters.mask, mask_encoding=parameters.mask_encoding
    )
    document["parameters"]["include"] = sorted(set(parameters.include), reverse=True)
    document["timings_ms"] |= {stage: round(value, 3) for stage, value in timings_ms.items()}
    model = result.segmentation.model
    return NewResult(
        id=result.id,
        created_utc=result.created_utc,
        caller=caller_id,
        accession=None if identity is None else identity.accession,
        specimen_id=None if identity is None else identity.specimen_id,
        order_id=None if identity is None else identity.order_id,
        input_sha256=result.sha256,
        pixel_sha256=hashlib.sha256(np.ascontiguousarray(result.image.pixels).data).hexdigest(),
        model_name=model.contract.name,
        model_version=model.contract.version,
        model_digest=model.digest,
        count=result.segmentation.count,
        software=software_versions(),
        document=document,
        image=image,
        labels_png=None if image is None else encode_labels(result.segmentation.labels),
    )
