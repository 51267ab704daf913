"""Times in the records: UTC as text, always of one length, so that text order is time order."""

import datetime as dt
from typing import Final

_FIRST: Final = "0001-01-01T00:00:00.000Z"
_LAST: Final = "9999-12-31T23:59:59.999Z"


def utc_text(time: dt.datetime) -> str:
    """Write an aware time as `2026-11-22T12:00:00.000Z`."""
    utc = time.astimezone(dt.UTC)
    return utc.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def utc_now() -> str:
    """Return the present time as text."""
    return utc_text(dt.datetime.now(dt.UTC))


def utc_after(seconds: float) -> str:
    """Return the time `seconds` from now as text; negative seconds lie in the past.

    What lies beyond the calendar is its first or last moment: a million days mean for ever.
    """
    try:
        return utc_text(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds))
    except OverflowError:
        return _LAST if seconds > 0 else _FIRST
