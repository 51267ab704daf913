"""Cursors of lists that begin with the newest: opaque to callers, a sequence number to us."""

import base64
import binascii

from service.errors import InvalidParameterError


def cursor_of(sequence: int) -> str:
    """Return the cursor of the page after the row of this sequence number."""
    return base64.urlsafe_b64encode(f"before:{sequence}".encode()).decode().rstrip("=")


def sequence_of(cursor: str) -> int:
    """Return the sequence number that all rows of the page lie below.

    Raises:
        InvalidParameterError: The cursor is none of ours.
    """
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
    except (binascii.Error, ValueError):
        text = ""
    word, _, number = text.partition(":")
    if word != "before" or not number.isdecimal() or len(number) > 18:
        raise InvalidParameterError(
            "The cursor is none that this service gave out; begin without one.", parameter="cursor"
        )
    return int(number)
