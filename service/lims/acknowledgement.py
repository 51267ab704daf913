"""Acknowledgements of order messages: HL7 version 2.5.1 ACK^O21 with MSA, and ERR where it failed.

    AA  carried out
    AE  the message's content is at fault: mend it, then send it again
    AR  not read: no message, another type, version or mode; or the service cannot file just now

Source: HL7 version 2.5.1, chapter 2.9.2 (original mode), 2.15.5 (ERR), tables 0008, 0357, 0516.
"""

import datetime as dt
import hashlib
from typing import Final

from service.errors import KaryonError, MalformedOrderError, UnusableOrderError
from service.lims.order_hl7 import Hl7Header
from service.outputs.codes import Hl7Parties
from service.outputs.hl7 import escape

_ERRORS: Final = {
    100: "Segment sequence error",
    101: "Required field missing",
    102: "Data type error",
    103: "Table value not found",
    104: "Value too long",
    200: "Unsupported message type",
    201: "Unsupported event code",
    202: "Unsupported processing id",
    203: "Unsupported version id",
    204: "Unknown key identifier",
    205: "Duplicate key identifier",
    207: "Application internal error",
}
_INTERNAL_ERROR: Final = 207
_UNKNOWN_CONTROL_ID: Final = "UNKNOWN"


def acknowledge(
    message: bytes, header: Hl7Header, parties: Hl7Parties, error: KaryonError | None = None
) -> bytes:
    """Build the acknowledgement of a message.

    Args:
        message: What is acknowledged; the control id of the answer follows from it.
        header: Its header; an empty one where it has none.
        parties: Names of this service, for what the message does not say.
        error: Why it was not carried out; None where it was.

    Returns:
        The message in UTF-8, without MLLP's frame.
    """
    own_id = hashlib.sha256(message + repr(error).encode()).hexdigest()[:20]
    now = dt.datetime.now(dt.UTC)
    fields = [
        "MSH",
        "^~\\&",
        escape(header.receiving_application or parties.sending_application),
        escape(header.receiving_facility or parties.sending_facility),
        escape(header.sending_application),
        escape(header.sending_facility),
        f"{now:%Y%m%d%H%M%S}+0000",
        "",
        "ACK^O21^ACK",
        own_id,
        escape(header.processing_id or parties.processing_id),
        "2.5.1",
    ]
    control_id = escape(header.control_id) or _UNKNOWN_CONTROL_ID
    segments = ["|".join(fields), f"MSA|{_code_of(error)}|{control_id}"]
    if error is not None:
        segments.append(_error_segment(error))
    return "".join(f"{segment}\r" for segment in segments).encode()


def _code_of(error: KaryonError | None) -> str:
    if error is None:
        return "AA"
    if isinstance(error, UnusableOrderError) and not isinstance(error, MalformedOrderError):
        return "AE"
    return "AR"


def _error_segment(error: KaryonError) -> str:
    code, location = _INTERNAL_ERROR, ""
    if isinstance(error, UnusableOrderError):
        code, location = error.code, error.location
    text = escape(_ERRORS[code])
    # Our own words, and a location that we wrote: nothing of the message is repeated.
    return f"ERR||{location}|{code}^{text}^HL70357|E||||{escape(str(error))}"
