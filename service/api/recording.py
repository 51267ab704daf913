"""From a finished segmentation to the record that is kept of it."""

import functools
import platform
from typing import Any

import cv2
import numpy as np
import onnxruntime

from service import __version__
from service.api.answer import Result, result_document
from service.api.parameters import SegmentParameters
from service.outputs.png import encode_labels
from service.provenance.keys import Keyring
from service.records.results import NewResult


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
    keyring: Keyring,
    image: bytes | None,
) -> NewResult:
    """Return what is kept of a result. Blocking; call it once the answer is encoded.

    Args:
        result: What was found.
        parameters: What the caller asked for.
        caller_id: Who asked.
        keyring: Signs the record, as it signs the answer.
        image: The file as sent, where images are kept.
    """
    # The time that encoding the answer took is not that of encoding the record.
    timings_ms = dict(result.timings_ms)
    document: dict[str, Any] = result_document(
        result, mask=parameters.mask, mask_encoding=parameters.mask_encoding
    )
    document["parameters"]["include"] = sorted(set(parameters.include), reverse=True)
    document["timings_ms"] |= {stage: round(value, 3) for stage, value in timings_ms.items()}
    document["provenance"] = keyring.sign(document, labels_sha256=result.labels_sha256)
    model = result.segmentation.model
    return NewResult(
        id=result.id,
        created_utc=result.created_utc,
        caller=caller_id,
        accession=result.identity.accession,
        specimen_id=result.identity.specimen_id,
        order_id=result.identity.order_id,
        input_sha256=result.sha256,
        pixel_sha256=result.pixel_sha256,
        model_name=model.contract.name,
        model_version=model.contract.version,
        model_digest=model.digest,
        count=result.segmentation.count,
        software=software_versions(),
        document=document,
        image=image,
        labels_png=None if image is None else encode_labels(result.segmentation.labels),
    )
