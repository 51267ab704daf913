"""From a request body to one image and its identifiers: a multipart form, or the raw body.

The bytes stay in memory, bounded by the body bound; nothing of a patient's image is spooled to a
temporary file, which Starlette's own form parser does above 1 MB.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from service.api.identity import IDENTITY_FIELDS, is_patient_field, patient_message
from service.errors import InvalidParameterError, KaryonError, PatientDataError

FIELD = "image"
ACCEPTED_BODIES = "multipart/form-data, image/*, application/octet-stream"
_MAX_PARTS = 8
_MAX_TEXT_BYTES = 256


class MalformedBodyError(KaryonError):
    """The body breaks the syntax of its own content type."""


class InvalidFormFieldError(InvalidParameterError):
    """A form field is missing, doubled, or unknown."""


class PatientDataFieldError(InvalidFormFieldError, PatientDataError):
    """A form field would identify a patient."""


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


@dataclass(frozen=True, slots=True)
class Upload:
    """What a request body holds.

    Attributes:
        image: The bytes of the image file, possibly none.
        fields: Identifiers given as form fields, by name; not validated yet.
    """

    image: bytes
    fields: Mapping[str, str] = field(default_factory=dict)


class _Form:
    """Collects the part `image` and the identifiers while python-multipart parses.

    Other parts are an error rather than ignored: a form field `threshold` that has no effect on the
    count would go unnoticed.
    """

    def __init__(self) -> None:
        self.image: bytearray | None = None
        self.texts: dict[str, bytearray] = {}
        self._target: bytearray | None = None
        self._name = FIELD
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
        if is_patient_field(name):
            raise PatientDataFieldError(patient_message(name), parameter=name[:64])
        if name not in (FIELD, *IDENTITY_FIELDS):
            raise InvalidFormFieldError(
                f"The form has a field {name[:64]!r}; it may hold {FIELD!r} and the identifiers"
                f" {', '.join(IDENTITY_FIELDS)} alone. Options are query parameters.",
                parameter=name[:64] or FIELD,
            )
        if name in self.texts or (name == FIELD and self.image is not None):
            raise InvalidFormFieldError(
                f"The form has two fields {name!r}; send one image a request.", parameter=name
            )
        self._name, self._target = name, bytearray()
        if name == FIELD:
            self.image = self._target
        else:
            self.texts[name] = self._target

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._target is None:
            return
        self._target += memoryview(data)[start:end]
        if self._target is not self.image and len(self._target) > _MAX_TEXT_BYTES:
            raise InvalidFormFieldError(
                f"The form field {self._name!r} is too long.", parameter=self._name
            )

    def fields(self) -> dict[str, str]:
        """Return the identifiers; bytes that are no UTF-8 fail their validation later."""
        return {name: text.decode("utf-8", "replace") for name, text in self.texts.items()}

    def on_end(self) -> None:
        self.complete = True


async def _read_multipart(request: Request, boundary: bytes) -> Upload:
    form = _Form()
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.on_part_begin,
                "on_header_begin": form.on_header_begin,
                "on_header_field": form.on_header_field,
                "on_header_value": form.on_header_value,
                "on_header_end": form.on_header_end,
                "on_headers_finished": form.on_headers_finished,
                "on_part_data": form.on_part_data,
                "on_end": form.on_end,
            },
        )
        async for chunk in request.stream():
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise MalformedBodyError("The multipart body is malformed.") from error
    if form.image is None:
        raise InvalidFormFieldError(
            f"The form has no field {FIELD!r}: send `-F {FIELD}=@slide.png`.", parameter=FIELD
        )
    if not form.complete:
        raise MalformedBodyError("The multipart body ends before its closing boundary.")
    return Upload(bytes(form.image), form.fields())


async def _read_raw(request: Request) -> Upload:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
    return Upload(bytes(body))


async def read_upload(request: Request, *, timeout_s: float) -> Upload:
    """Read the one image of a request and its identifiers; the image's bytes are not looked at.

    A body without Content-Type counts as `application/octet-stream` (RFC 9110, section 8.3); what
    `image/*` says is ignored, since the content is sniffed later.

    Args:
        request: The request; its `receive` enforces the body bound.
        timeout_s: Seconds the client may take.

    Returns:
        The bytes, possibly none, and the identifiers of a form.

    Raises:
        UnsupportedBodyError: Another content type, or a content coding such as gzip.
        MalformedBodyError: Broken multipart syntax.
        InvalidFormFieldError: No field `image`, two of one name, or other fields.
        PatientDataFieldError: A field would identify a patient.
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
            return (await _read_raw(request)).image
    except TimeoutError as error:
        raise UploadTimeoutError(
            f"The body did not arrive within {timeout_s:g} seconds."
        ) from error
