"""POST /segment: an image in, a count or a mask out."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from service.api.answer import Result, make_result, represent
from service.api.documentation import REQUEST_ID_HEADER, VARY_HEADER, problem_answers
from service.api.examples import SEGMENTATION_EXAMPLE
from service.api.negotiation import JSON, PNG, choose_representation
from service.api.parameters import SegmentParameters, get_segment_parameters
from service.api.schemas import SegmentationAnswer
from service.api.state import Observer, ObserverDependency, StateDependency
from service.api.upload import FIELD, read_image_bytes
from service.images.decode import ImageLimits

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
            "internal-error",
            "overloaded",
            "not-ready",
        ),
    },
)
async def segment_image(
    request: Request,
    parameters: Annotated[SegmentParameters, Depends(get_segment_parameters)],
    state: StateDependency,
    observer: ObserverDependency,
) -> Response:
    """Find every nucleus of an H&E image.

    `Accept: application/json` (the default) answers with counts and areas, `Accept: image/png` with
    the mask and the count in headers. Results are preliminary and for research use only.
    """
    media_type = choose_representation(",".join(request.headers.getlist("accept")))
    segmenter = state.segmenter(parameters.model)
    limits = ImageLimits(
        max_pixels=state.settings.max_pixels, min_side_px=state.settings.min_side_px
    )
    async with state.pool.place():
        data = await read_image_bytes(request, timeout_s=state.settings.upload_timeout_s)

        def work(queue_ms: float) -> tuple[Result, bytes, dict[str, str]]:
            result = make_result(data, segmenter, parameters, limits)
            result.timings_ms["queue"] = queue_ms
            return result, *represent(result, media_type, parameters)

        result, body, headers = await state.pool.run(work, client_gone=request.is_disconnected)
    _observe(observer, result)
    return Response(body, media_type=media_type, headers={"Vary": "Accept", **headers})
