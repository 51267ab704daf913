"""From a result to the bytes of the representation that the caller asked for.

Everything here is blocking and runs on a worker.
"""

import time
from typing import Any

from service.api import negotiation
from service.api.answer import (
    Result,
    known_mpp,
    mask_png,
    png_headers,
    result_document,
    to_json,
)
from service.api.parameters import SegmentParameters
from service.api.schemas import RESEARCH_USE_ONLY
from service.outputs.coco import build_coco
from service.outputs.codes import LOCAL_REPORTING, Reporting
from service.outputs.csv_table import build_csv
from service.outputs.fhir import build_bundle
from service.outputs.geojson import build_geojson
from service.outputs.hl7 import build_oru_r01
from service.outputs.report import reported_result
from service.provenance.keys import Keyring


def signed_document(
    result: Result, parameters: SegmentParameters, keyring: Keyring
) -> dict[str, Any]:
    """Return the JSON answer with its signed statement in `provenance`."""
    document = result_document(
        result,
        mask=parameters.mask,
        mask_encoding=parameters.mask_encoding,
        include=parameters.include,
    )
    return _signed(document, result, keyring)


def _signed(document: dict[str, Any], result: Result, keyring: Keyring) -> dict[str, Any]:
    return {**document, "provenance": keyring.sign(document, labels_sha256=result.labels_sha256)}


def represent(
    result: Result,
    media_type: str,
    parameters: SegmentParameters,
    *,
    keyring: Keyring,
    reporting: Reporting = LOCAL_REPORTING,
) -> tuple[bytes, dict[str, str]]:
    """Return body and extra headers of an answer.

    Args:
        result: What was found.
        media_type: One of `service.api.negotiation.OFFERED`.
        parameters: What the caller asked for.
        keyring: Signs the JSON and FHIR answers.
        reporting: The laboratory's codes, for FHIR and HL7.
    """
    if media_type == negotiation.JSON:
        return to_json(signed_document(result, parameters, keyring)), {}
    start_s = time.perf_counter()
    body = _body(result, media_type, parameters, keyring, reporting)
    result.timings_ms["encoding"] = (time.perf_counter() - start_s) * 1000.0
    return body, png_headers(result)


def _body(
    result: Result,
    media_type: str,
    parameters: SegmentParameters,
    keyring: Keyring,
    reporting: Reporting,
) -> bytes:
    segmentation = result.segmentation
    match media_type:
        case negotiation.PNG:
            return mask_png(result, parameters.mask)
        case negotiation.GEOJSON:
            return build_geojson(
                segmentation.labels,
                segmentation.nuclei,
                result_id=result.id,
                mpp=known_mpp(segmentation),
                properties=_collection_properties(result),
            )
        case negotiation.CSV:
            return build_csv(
                segmentation.nuclei,
                result_id=result.id,
                identity=result.identity,
                mpp=known_mpp(segmentation),
            )
        case negotiation.COCO:
            return build_coco(
                segmentation.labels,
                segmentation.nuclei,
                result_id=result.id,
                created_utc=result.created_utc,
                description=RESEARCH_USE_ONLY,
                identity=result.identity,
            )
    # Messages report figures, not outlines: what is signed with them has no optional parts.
    report = reported_result(_signed(result_document(result), result, keyring))
    if media_type == negotiation.FHIR:
        return build_bundle(report, reporting.codes, reporting.systems)
    return build_oru_r01(report, reporting.codes, reporting.parties)


def _collection_properties(result: Result) -> dict[str, Any]:
    """Return what a file of outlines must say once it has left the answer that it came in."""
    document = result_document(result)
    return {
        name: document[name]
        for name in (
            "id", "status", "research_use_only", "created_utc", "identity", "count", "model",
            "image", "software",
        )
    }  # fmt: skip
