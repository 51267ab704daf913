"""From a finished segmentation to the record that is kept of it."""

import functools
import platform
from collections.abc import Mapping
from typing import Any, Final

import cv2
import numpy as np
import onnxruntime

from service import __version__
from service.api.answer import Result
from service.inference.session import ModelSession
from service.outputs.png import encode_labels
from service.records.audit import Transaction
from service.records.bindings import Settlement
from service.records.results import NewResult

_LARGE_PARTS: Final = frozenset({"nuclei", "mask"})


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
    document: Mapping[str, Any],
    *,
    caller_id: str,
    image: bytes | None,
    hold_unknown: bool = False,
) -> NewResult:
    """Return what is kept of a result. Blocking.

    Args:
        result: What was found.
        document: Its signed JSON answer; kept as it was sent, but for the outlines and the mask,
            whose digests the statement in it holds.
        caller_id: Who asked.
        image: The file as sent, where images are kept.
        hold_unknown: Whether it is held where its accession number is of no order.
    """
    order = None if result.order is None else result.order.id
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
        document={name: part for name, part in document.items() if name not in _LARGE_PARTS},
        image=image,
        labels_png=None if image is None else encode_labels(result.segmentation.labels),
        settlement=Settlement(order, hold_unknown=hold_unknown),
    )


def audit_activation(transaction: Transaction, session: ModelSession, *, actor: str) -> None:
    """Tell the audit trail which model answers from now on, and who brought that about."""
    transaction.audit(
        "model.activated",
        actor=actor,
        subject=f"{session.contract.name}:{session.contract.version}",
        details={
            "digest": session.digest,
            "provider": session.provider,
            "precision": session.precision,
        },
    )
