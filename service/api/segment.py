"""POST /segment: an image in, a count or a mask out."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from service.api.answer import Result, make_result
from service.api.auth import SegmentCaller
from service.api.documentation import REQUEST_ID_HEADER, VARY_HEADER, problem_answers
from service.api.examples import (
    CSV_EXAMPLE,
    FHIR_EXAMPLE,
    HL7_EXAMPLE,
    SEGMENTATION_EXAMPLE,
)
from service.api.idempotency import (
    REPLAYED_HEADER,
    IdempotencyKeyHeader,
    Turn,
    refuse_without_records,
    to_response,
)
from service.api.identity import ALLOWED_IDENTIFIER, GREATEST_IDENTIFIER_LENGTH, IDENTITY_FIELDS
from service.api.negotiation import (
    COCO,
    CSV,
    FHIR,
    GEOJSON,
    HL7,
    HL7_ER7,
    JSON,
    MEDIA_TYPE_OF,
    PNG,
    choose_representation,
)
from service.api.parameters import SegmentParameters, get_segment_parameters
from service.api.recording import make_record
from service.api.representation import represent
from service.api.schemas import SegmentationAnswer
from service.api.state import Observer, ObserverDependency, StateDependency
from service.api.upload import FIELD, read_upload
from service.images.decode import ImageLimits
from service.records.audit import Transaction, canonical_json
from service.records.idempotency import StoredAnswer
from service.records.results import NewResult, add_result

router = APIRouter(tags=["segmentation"])

_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "description": (
        "One image: the form field `image`, or the file itself as the body. PNG, JPEG, TIFF, WebP"
        " or BMP, recognised by content."
    ),
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": [FIELD],
                "properties": {
                    FIELD: {
                        "type": "string",
                        "format": "binary",
                        "description": "The image file.",
                    },
                    **{
                        name: {
                            "type": "string",
                            "minLength": 1,
                            "maxLength": GREATEST_IDENTIFIER_LENGTH,
                            "pattern": ALLOWED_IDENTIFIER,
                            "description": f"The same as the query parameter `{name}`.",
                        }
                        for name in IDENTITY_FIELDS
                    },
                },
                "additionalProperties": False,
            }
        },
        "image/png": _BINARY,
        "image/jpeg": _BINARY,
        "image/tiff": _BINARY,
        "image/webp": _BINARY,
        "image/bmp": _BINARY,
        "application/octet-stream": _BINARY,
    },
}


def _text_header(description: str, example: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"}, "example": example}


def _described(kind: str, description: str, example: object = None) -> dict[str, Any]:
    described = {"schema": {"type": kind, "description": description}}
    return described if example is None else {**described, "example": example}


_SUCCESS: dict[str, Any] = {
    "description": (
        "The result in the representation that `format` or Accept asks for. The `X-Karyon-` headers"
        " come with every one but `application/json`."
    ),
    "headers": {
        **REQUEST_ID_HEADER,
        **VARY_HEADER,
        **REPLAYED_HEADER,
        "X-Karyon-Id": _text_header("`id` of the result.", SEGMENTATION_EXAMPLE["id"]),
        "X-Karyon-Count": {
            "description": "Number of nuclei.",
            "schema": {"type": "integer", "minimum": 0},
            "example": SEGMENTATION_EXAMPLE["count"],
        },
        "X-Karyon-Model": _text_header("Model as name:version.", "mobilenetv2_unet:1.0.0"),
        "X-Karyon-Model-Digest": _text_header(
            "SHA-256 of the model file.", SEGMENTATION_EXAMPLE["model"]["digest"]
        ),
        "X-Karyon-Provider": _text_header("Provider that really ran.", "CPUExecutionProvider"),
        "X-Karyon-Status": _text_header("`preliminary` until reviewed.", "preliminary"),
        "X-Karyon-Accession": _text_header("`accession`, where it was sent.", "S26-1234"),
        "X-Karyon-Specimen-Id": _text_header("`specimen_id`, where it was sent.", "S26-1234-A1"),
        "X-Karyon-Order-Id": _text_header("`order_id`, where it was sent.", "ORD-778812"),
        "X-Karyon-Review-Recommended": {
            "description": "Whether any quality flag fired; the JSON answer tells which and why.",
            "schema": {"type": "string", "enum": ["true", "false"]},
            "example": "false",
        },
    },
    "content": {
        JSON: {
            "schema": {"$ref": f"#/components/schemas/{SegmentationAnswer.__name__}"},
            "example": SEGMENTATION_EXAMPLE,
        },
        PNG: _BINARY,
        GEOJSON: _described("object", "A FeatureCollection, one feature a nucleus; for QuPath."),
        CSV: _described("string", "One row a nucleus, units in the header.", CSV_EXAMPLE),
        FHIR: _described("object", "An R4 Bundle, DiagnosticReport first.", FHIR_EXAMPLE),
        HL7: _described("string", "A version 2.5.1 ORU^R01 message in ER7.", HL7_EXAMPLE),
        HL7_ER7: _described("string", "The same."),
        COCO: _described("object", "A COCO data set of one image with uncompressed run lengths."),
    },
}


def _observe(observer: Observer, result: Result) -> None:
    model = result.segmentation.model
    observer.segmented(
        model=model.contract.name,
        version=model.contract.version,
        provider=model.provider,
        nuclei=result.segmentation.count,
        pixels=result.segmentation.labels.size,
        upload_bytes=result.upload_bytes,
        timings_ms=result.timings_ms,
    )


@router.post(
    "/segment",
    operation_id="segmentImage",
    summary="Segment and count the nuclei of an image",
    response_class=Response,
    openapi_extra={"requestBody": _REQUEST_BODY},
    responses={
        200: _SUCCESS,
        **problem_answers(
            "malformed-request",
            "unknown-model",
            "not-acceptable",
            "upload-timeout",
            "idempotency-key-in-flight",
            "idempotency-key-reused",
            "body-too-large",
            "image-too-large",
            "unsupported-body",
            "unreadable-image",
            "unsupported-image",
            "image-too-small",
            "invalid-parameter",
            "patient-data-refused",
            "internal-error",
            "overloaded",
            "not-ready",
            "records-unavailable",
        ),
    },
)
async def segment_image(
    caller: SegmentCaller,
    request: Request,
    parameters: Annotated[SegmentParameters, Depends(get_segment_parameters)],
    state: StateDependency,
    observer: ObserverDependency,
    idempotency_key: IdempotencyKeyHeader = None,
) -> Response:
    """Find every nucleus of an H&E image.

    `Accept: application/json` (the default) answers with counts and areas, `Accept: image/png` with
    the mask and the count in headers; GeoJSON, CSV, COCO, FHIR and HL7 likewise, or by `format`.
    Results are preliminary and for research use only.
    """
    if parameters.format is not None:
        media_type = MEDIA_TYPE_OF[parameters.format]
    else:
        media_type = choose_representation(",".join(request.headers.getlist("accept")))
    segmenter = state.segmenter(parameters.model)
    limits = ImageLimits(
        max_pixels=state.settings.max_pixels, min_side_px=state.settings.min_side_px
    )

    async def segment(turn: Turn | None) -> Response:
        async with state.pool.place():
            upload = await read_upload(request, timeout_s=state.settings.upload_timeout_s)
            if turn is not None:
                fields = canonical_json(sorted(upload.fields.items()))
                if (given := await turn.begin(upload.image, fields, media_type)) is not None:
                    return given
            asked = parameters.with_form_fields(upload.fields)

            def work(queue_ms: float) -> tuple[Result, StoredAnswer, NewResult]:
                result = make_result(upload.image, segmenter, asked, limits)
                result.timings_ms["queue"] = queue_ms
                body, headers = represent(
                    result,
                    media_type,
                    asked,
                    keyring=state.keyring,
                    reporting=state.settings.reporting,
                )
                answer = StoredAnswer(200, media_type, {"Vary": "Accept", **headers}, body)
                kept = upload.image if state.settings.keep_images else None
                record = make_record(
                    result, asked, caller_id=caller.id, keyring=state.keyring, image=kept
                )
                return result, answer, record

            result, answer, record = await state.pool.run(work, client_gone=request.is_disconnected)
            _observe(observer, result)
            if turn is None:
                return to_response(answer)

            def file(transaction: Transaction) -> StoredAnswer:
                add_result(transaction, record)
                return answer

            # No answer leaves before its record and its audit row are committed.
            return await turn.file(file)

    if state.idempotency_keys is None:
        refuse_without_records(idempotency_key)
        return await segment(None)
    async with state.idempotency_keys.turn(request, caller.id, idempotency_key) as turn:
        return await segment(turn)
