"""From a request body to the bytes of one image: multipart field `image`, or the raw body.

The bytes stay in memory, bounded by the body bound; nothing of a patient's image is spooled to a
temporary file, which Starlette's own form parser does above 1 MB.
"""

import asyncio

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from service.errors import InvalidParameterError, KaryonError

FIELD = "image"
ACCEPTED_BODIES = "multipart/form-data, image/*, application/octet-stream"
_MAX_PARTS = 8


class MalformedBodyError(KaryonError):
    """The body breaks the syntax of its own content type."""


class InvalidFormFieldError(InvalidParameterError):
    """A form field is missing, doubled, or unknown."""


class UnsupportedBodyError(KaryonError):
    """The content type or coding of the body is none that is read here.

    Attributes:
        accepted: What is read, for Accept-Post.
    """

    accepted = ACCEPTED_BODIES


class UnsupportedReviewError(UnsupportedBodyError):
    """The body is not JSON."""

    accepted = "application/json"


class UploadTimeoutError(KaryonError):
    """The client took too long to send its body."""


class _ImageField:
    """Collects the one part named `image` while python-multipart parses.

    Other parts are an error rather than ignored: a form field `threshold` that has no effect on the
    count would go unnoticed.
    """

    def __init__(self) -> None:
        self.image: bytearray | None = None
        self.complete = False
        self._parts = 0
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._disposition = ""

    def on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise MalformedBodyError(f"The form has more than {_MAX_PARTS} parts.")
        self._disposition = ""

    def on_header_begin(self) -> None:
        self._header_name.clear()
        self._header_value.clear()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value.decode("latin-1")

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name != FIELD:
            raise InvalidFormFieldError(
                f"The form has a field {name[:64]!r}; it may hold {FIELD!r} alone. Options are"
                " query parameters.",
                parameter=name[:64] or FIELD,
            )
        if self.image is not None:
            raise InvalidFormFieldError(
                f"The form has two fields {FIELD!r}; send one image a request.", parameter=FIELD
            )
        self.image = bytearray()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self.image is not None:
            self.image += memoryview(data)[start:end]

    def on_end(self) -> None:
        self.complete = True


async def _read_multipart(request: Request, boundary: bytes) -> bytes:
    field = _ImageField()
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": field.on_part_begin,
                "on_header_begin": field.on_header_begin,
                "on_header_field": field.on_header_field,
                "on_header_value": field.on_header_value,
                "on_header_end": field.on_header_end,
                "on_headers_finished": field.on_headers_finished,
                "on_part_data": field.on_part_data,
                "on_end": field.on_end,
            },
        )
        async for chunk in request.stream():
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise MalformedBodyError("The multipart body is malformed.") from error
    if field.image is None:
        raise InvalidFormFieldError(
            f"The form has no field {FIELD!r}: send `-F {FIELD}=@slide.png`.", parameter=FIELD
        )
    if not field.complete:
        raise MalformedBodyError("The multipart body ends before its closing boundary.")
    return bytes(field.image)


async def _read_raw(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
    return bytes(body)


async def read_image_bytes(request: Request, *, timeout_s: float) -> bytes:
    """Read the one image of a request; its bytes are not looked at.

    A body without Content-Type counts as `application/octet-stream` (RFC 9110, section 8.3); what
    `image/*` says is ignored, since the content is sniffed later.

    Args:
        request: The request; its `receive` enforces the body bound.
        timeout_s: Seconds the client may take.

    Returns:
        The bytes, possibly none.

    Raises:
        UnsupportedBodyError: Another content type, or a content coding such as gzip.
        MalformedBodyError: Broken multipart syntax.
        InvalidFormFieldError: No field `image`, two of them, or other fields.
        BodyTooLargeError: More bytes than the bound, from the middleware.
        UploadTimeoutError: Too slow.
        starlette.requests.ClientDisconnect: The client went away.
    """
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise UnsupportedBodyError(
            "A body with a Content-Encoding is not read; images are compressed already."
        )
    media_type, options = parse_options_header(request.headers.get("content-type"))
    try:
        async with asyncio.timeout(timeout_s):
            if media_type == b"multipart/form-data":
                boundary = options.get(b"boundary", b"")
                if not boundary:
                    raise MalformedBodyError("The Content-Type of the form names no boundary.")
                return await _read_multipart(request, boundary)
            if media_type in (b"", b"application/octet-stream") or media_type.startswith(b"image/"):
                return await _read_raw(request)
    except TimeoutError as error:
        raise UploadTimeoutError(
            f"The body did not arrive within {timeout_s:g} seconds."
        ) from error
    raise UnsupportedBodyError(
        f"The body's Content-Type is {media_type.decode('latin-1')[:64]!r}; it can be"
        f" {ACCEPTED_BODIES}. With curl: `-F {FIELD}=@slide.png`, or"
        " `--data-binary @slide.png -H 'Content-Type: image/png'`."
    )


async def read_json_bytes(request: Request, *, timeout_s: float) -> bytes:
    """Read a body that says it is JSON; it is not parsed.

    Args:
        request: The request; its `receive` enforces the body bound.
        timeout_s: Seconds the client may take.

    Raises:
        UnsupportedReviewError: Another content type. A form of a foreign web page, which a browser
            sends without asking, cannot pass for a review.
        UploadTimeoutError: Too slow.
    """
    media_type, _ = parse_options_header(request.headers.get("content-type"))
    if media_type != b"application/json":
        raise UnsupportedReviewError("The body must be application/json.")
    try:
        async with asyncio.timeout(timeout_s):
            return await _read_raw(request)
    except TimeoutError as error:
        raise UploadTimeoutError(
            f"The body did not arrive within {timeout_s:g} seconds."
        ) from error
