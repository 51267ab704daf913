"""POST /segment: an image in, a count or a mask out."""

import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response

from service.api.admission import Answer, answer_image
from service.api.answer import Result
from service.api.appointments import visit_of
from service.api.auth import SegmentCaller
from service.api.disconnect import disconnect_watch
from service.api.documentation import (
    QUOTA_HEADERS,
    REQUEST_ID_HEADER,
    VARY_HEADER,
    problem_answers,
)
from service.api.example_requests import EXAMPLE_IMAGE
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
from service.api.order_binding import bind_to_order
from service.api.parameters import (
    RequestTimeout,
    SegmentParameters,
    get_segment_parameters,
    make_ticket,
)
from service.api.quota import QuotaState, quota_key
from service.api.schemas import SegmentationAnswer
from service.api.state import Observer, ObserverDependency, ServiceState, StateDependency
from service.api.upload import FIELD, Upload, UploadTimeoutError, read_upload
from service.errors import DeadlineExceededError, QuotaExceededError
from service.inference.ticket import Ticket
from service.records.audit import Transaction
from service.records.idempotency import StoredAnswer
from service.records.results import add_result

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
            },
            "example": {FIELD: EXAMPLE_IMAGE, "accession": "S26-1234"},
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
        **QUOTA_HEADERS,
        "X-Karyon-Cache": {
            "description": "Whether the result was computed for an earlier request.",
            "required": True,
            "schema": {"type": "string", "enum": ["hit", "miss"]},
            "example": "miss",
        },
        **REPLAYED_HEADER,
        "X-Karyon-Id": _text_header("`id` of the result.", SEGMENTATION_EXAMPLE["id"]),
        "X-Karyon-Count": {
            "description": "Number of nuclei.",
            "schema": {"type": "integer", "minimum": 0},
            "example": SEGMENTATION_EXAMPLE["count"],
        },
        "X-Karyon-Count-Interval": _text_header(
            "`lower-upper; level=...` of the count; absent where `count_interval` would be null.",
            "110-146; level=0.9",
        ),
        "X-Karyon-Model": _text_header("Model as name:version.", "efficientnetv2b0_unet:1.1.0"),
        "X-Karyon-Model-Digest": _text_header(
            "SHA-256 of the model file.", SEGMENTATION_EXAMPLE["model"]["digest"]
        ),
        "X-Karyon-Provider": _text_header("Provider that really ran.", "CPUExecutionProvider"),
        "X-Karyon-Precision": _text_header("What the model computed in.", "fp32"),
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


def _shadow_task(
    state: ServiceState, result: Result, parameters: SegmentParameters
) -> BackgroundTask | None:
    """Return what shows the image to the candidate model once the answer is sent."""
    if state.shadow is None or result.cached:
        return None
    return BackgroundTask(
        state.shadow.offer,
        result.image.pixels,
        result.image.mpp,
        parameters.segment_options(),
        result.segmentation,
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
            "quota-exceeded",
            "patient-data-refused",
            "unknown-accession",
            "internal-error",
            "overloaded",
            "not-ready",
            "deadline-exceeded",
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
    x_request_timeout_ms: RequestTimeout = None,
    idempotency_key: IdempotencyKeyHeader = None,
) -> Response:
    """Find every nucleus of an H&E image.

    `Accept: application/json` (the default) answers with counts and areas, `Accept: image/png` with
    the mask and the count in headers; GeoJSON, CSV, COCO, FHIR and HL7 likewise, or by `format`.
    Results are preliminary and for research use only.
    """
    ticket = make_ticket(parameters, x_request_timeout_ms)
    if parameters.format is not None:
        media_type = MEDIA_TYPE_OF[parameters.format]
    else:
        media_type = choose_representation(",".join(request.headers.getlist("accept")))
    segmenter = state.segmenter(parameters.model)
    quota = _take_quota(state, quota_key(caller.id, request), observer)

    async def segment(turn: Turn | None) -> Response:
        with state.tracing.request(request.headers, ticket) as trace:
            async with state.pool.room.place(ticket, visit_of(request, caller.id)) as place:
                with _deadline_counted(observer):
                    upload = await _read_in_time(request, state.settings.upload_timeout_s, ticket)
                asked = parameters.with_form_fields(upload.fields)
                if turn is not None:
                    fields = repr(sorted(upload.fields.items()))
                    with _deadline_counted(observer):
                        given = await turn.begin(upload.image, media_type, fields)
                    if given is not None:
                        return given
                asked, order = await bind_to_order(state, asked)
                async with disconnect_watch(request, ticket) as gone:
                    answer = await answer_image(
                        upload.image, media_type, asked, state, segmenter, place, gone, caller.id,
                        order,
                    )  # fmt: skip
                response = await _file(answer, media_type, turn)
            trace.stages(answer.result.timings_ms)
        if not answer.result.cached:
            _observe(observer, answer.result)
        response.background = _shadow_task(state, answer.result, asked)
        return response

    if state.idempotency_keys is None:
        refuse_without_records(idempotency_key)
        response = await segment(None)
    else:
        keys = state.idempotency_keys
        async with AsyncExitStack() as stack:
            turns = keys.turn(request, caller.id, idempotency_key, ticket)
            with _deadline_counted(observer):
                turn = await stack.enter_async_context(turns)
            response = await segment(turn)
    if quota is not None:
        response.headers.update(quota.headers())
    return response


async def _file(answer: Answer, media_type: str, turn: Turn | None) -> Response:
    """Commit the record of an answer, and return it as a response; no answer leaves before."""
    cache = "hit" if answer.result.cached else "miss"
    headers = {"Vary": "Accept", "X-Karyon-Cache": cache, **answer.headers}
    stored = StoredAnswer(200, media_type, headers, answer.body)
    record = answer.record
    if turn is None or record is None:
        return to_response(stored)

    def write(transaction: Transaction) -> StoredAnswer:
        add_result(transaction, record)
        return stored

    return await turn.file(write)


def _take_quota(state: ServiceState, caller: str, observer: Observer) -> QuotaState | None:
    try:
        return state.quota.take(caller, time.monotonic())
    except QuotaExceededError:
        observer.refused("quota")
        raise


@contextmanager
def _deadline_counted(observer: Observer) -> Iterator[None]:
    """Count a deadline that passes where neither the room nor the pool would."""
    try:
        yield
    except DeadlineExceededError:
        observer.deadline_exceeded()
        raise


async def _read_in_time(request: Request, timeout_s: float, ticket: Ticket) -> Upload:
    """Read the body within the service's time and the caller's own."""
    remaining_s = ticket.remaining_s()
    bound_s = timeout_s if remaining_s is None else min(timeout_s, remaining_s)
    try:
        return await read_upload(request, timeout_s=bound_s)
    except UploadTimeoutError:
        ticket.check()
        raise
