"""POST /segment: an image in, a count or a mask out."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from service.api.admission import answer_image
from service.api.answer import Result
from service.api.disconnect import disconnect_watch
from service.api.documentation import (
    QUOTA_HEADERS,
    REQUEST_ID_HEADER,
    VARY_HEADER,
    problem_answers,
)
from service.api.examples import SEGMENTATION_EXAMPLE
from service.api.negotiation import JSON, PNG, choose_representation
from service.api.parameters import SegmentParameters, get_segment_parameters, get_ticket
from service.api.quota import CallerKeyDependency, QuotaState
from service.api.schemas import SegmentationAnswer
from service.api.state import Observer, ObserverDependency, ServiceState, StateDependency
from service.api.upload import FIELD, UploadTimeoutError, read_image_bytes
from service.errors import QuotaExceededError
from service.inference.ticket import Ticket

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
                    }
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


_SUCCESS: dict[str, Any] = {
    "description": (
        "The count as JSON, or the mask as PNG: Accept decides. The `X-Karyon-` headers come with"
        " PNG."
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
            "body-too-large",
            "image-too-large",
            "unsupported-body",
            "unreadable-image",
            "unsupported-image",
            "image-too-small",
            "invalid-parameter",
            "quota-exceeded",
            "internal-error",
            "overloaded",
            "not-ready",
            "deadline-exceeded",
        ),
    },
)
async def segment_image(
    request: Request,
    parameters: Annotated[SegmentParameters, Depends(get_segment_parameters)],
    ticket: Annotated[Ticket, Depends(get_ticket)],
    caller: CallerKeyDependency,
    state: StateDependency,
    observer: ObserverDependency,
) -> Response:
    """Find every nucleus of an H&E image.

    `Accept: application/json` (the default) answers with counts and areas, `Accept: image/png` with
    the mask and the count in headers. Results are preliminary and for research use only.
    """
    media_type = choose_representation(",".join(request.headers.getlist("accept")))
    segmenter = state.segmenter(parameters.model)
    quota = _take_quota(state, caller, observer)
    with state.tracing.request(request.headers, ticket) as trace:
        async with state.pool.place(ticket, caller) as place:
            data = await _read_in_time(request, state.settings.upload_timeout_s, ticket)
            async with disconnect_watch(request, ticket) as gone:
                answer = await answer_image(
                    data, media_type, parameters, state, segmenter, place, gone
                )
        trace.stages(answer.result.timings_ms)
    if not answer.result.cached:
        _observe(observer, answer.result)
    headers = {
        "Vary": "Accept",
        "X-Karyon-Cache": "hit" if answer.result.cached else "miss",
        **({} if quota is None else quota.headers()),
        **answer.headers,
    }
    return Response(answer.body, media_type=media_type, headers=headers)


def _take_quota(state: ServiceState, caller: str, observer: Observer) -> QuotaState | None:
    try:
        return state.quota.take(caller, time.monotonic())
    except QuotaExceededError:
        observer.refused("quota")
        raise


async def _read_in_time(request: Request, timeout_s: float, ticket: Ticket) -> bytes:
    """Read the body within the service's time and the caller's own."""
    remaining_s = ticket.remaining_s()
    bound_s = timeout_s if remaining_s is None else min(timeout_s, remaining_s)
    try:
        return await read_image_bytes(request, timeout_s=bound_s)
    except UploadTimeoutError:
        ticket.check()
        raise
