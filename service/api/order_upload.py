"""The body of `POST /orders`: its kind from the header, its bytes within a bound of their own."""

import asyncio

from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from service.api.negotiation import FHIR, HL7, HL7_ER7
from service.api.upload import UnsupportedBodyError, UploadTimeoutError
from service.errors import BodyTooLargeError

ACCEPTED_ORDERS = (FHIR, HL7_ER7, HL7)


class UnsupportedOrderError(UnsupportedBodyError):
    """The body is neither FHIR nor HL7."""

    accepted = ", ".join(ACCEPTED_ORDERS)


def order_media_type(request: Request) -> str:
    """Return the media type of the message, one of `ACCEPTED_ORDERS`.

    Raises:
        UnsupportedOrderError: Another content type, or a content coding such as gzip. A form of a
            foreign web page, which a browser sends without asking, cannot pass for an order.
    """
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    media_type = parse_options_header(request.headers.get("content-type"))[0].decode("latin-1")
    if coding not in ("", "identity") or media_type not in ACCEPTED_ORDERS:
        raise UnsupportedOrderError(
            f"An order is {' or '.join(ACCEPTED_ORDERS)}, without Content-Encoding."
        )
    return media_type


async def read_order(request: Request, *, most_bytes: int, timeout_s: float) -> bytes:
    """Read the message; it is not parsed.

    Args:
        request: The request.
        most_bytes: Most bytes of the body.
        timeout_s: Seconds the client may take.

    Raises:
        BodyTooLargeError: It has more bytes.
        UploadTimeoutError: Too slow.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most_bytes:
                    raise BodyTooLargeError(
                        f"An order has at most {most_bytes} bytes (KARYON_MAX_ORDER_BYTES)."
                    )
    except TimeoutError as error:
        raise UploadTimeoutError(
            f"The body did not arrive within {timeout_s:g} seconds."
        ) from error
    return bytes(body)
