"""What to tell a caller whose value has a wrong shape; regular expressions tell nobody."""

from collections.abc import Mapping
from typing import Any, Final

_IDENTIFIER: Final = (
    "May hold letters, digits and `._:/-`, 64 at most, and needs a digit: send the number of the"
    " case, never a name"
)
_SHAPES: Final[Mapping[str, str]] = {
    "accession": _IDENTIFIER,
    "specimen_id": _IDENTIFIER,
    "order_id": _IDENTIFIER,
    "Idempotency-Key": (
        "May hold 200 visible ASCII characters at most, and spaces only within double quotes; send"
        " a UUID"
    ),
    "id": "Should be 32 hexadecimal digits, as in the `id` of an answer",
}


def shape_message(detail: Mapping[str, Any]) -> str:
    """Return fault and remedy of a validation error in words.

    Args:
        detail: One of pydantic's `errors()`.
    """
    message: str = detail["msg"]
    if detail["type"] == "string_pattern_mismatch":
        return _SHAPES.get(str(detail["loc"][-1]), message)
    return message
