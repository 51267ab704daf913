"""The numbers of an order, whichever message they come in, checked alike."""

from collections.abc import Iterable

from service.errors import UnusableOrderError
from service.outputs.identity import GREATEST_IDENTIFIER_LENGTH, is_identifier

MOST_ORDERS = 100
"""Most orders of one message."""

_TOO_LONG = 104
_NOT_THAT_TYPE = 102


def checked_number(text: str | None, *, what: str, location: str) -> str | None:
    """Return a number of the laboratory as it is filed; None and an empty one are none.

    Args:
        text: As it stands in the message.
        what: What it is, in words.
        location: Where it stands.

    Raises:
        UnusableOrderError: It could not be sent with an image either. It is not repeated: what
            stands in the wrong field may be a name.
    """
    if text is None or not text.strip():
        return None
    number = text.strip()
    if not is_identifier(number):
        long = len(number) > GREATEST_IDENTIFIER_LENGTH
        raise UnusableOrderError(
            f"The {what} may have at most {GREATEST_IDENTIFIER_LENGTH} letters, digits and the"
            " characters . _ : / - and has one digit at least.",
            location=location,
            code=_TOO_LONG if long else _NOT_THAT_TYPE,
        )
    return number


def required_number(text: str | None, *, what: str, location: str) -> str:
    """Return a number that must be there; see `checked_number`.

    Raises:
        UnusableOrderError: It is missing, or malformed.
    """
    number = checked_number(text, what=what, location=location)
    if number is None:
        raise UnusableOrderError(f"The {what} is missing.", location=location)
    return number


def single(numbers: Iterable[str | None]) -> str | None:
    """Return the one number that there is; None where there is none, or more than one."""
    distinct = {number for number in numbers if number is not None}
    return distinct.pop() if len(distinct) == 1 else None
