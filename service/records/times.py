"""Times in the records: UTC as text, always of one length, so that text order is time order."""

import datetime as dt


def utc_text(time: dt.datetime) -> str:
    """Write an aware time as `2026-11-22T12:00:00.000Z`."""
    utc = time.astimezone(dt.UTC)
    return utc.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def utc_now() -> str:
    """Return the present time as text."""
    return utc_text(dt.datetime.now(dt.UTC))


def utc_after(seconds: float) -> str:
    """Return the time `seconds` from now as text; negative seconds lie in the past."""
    return utc_text(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds))
