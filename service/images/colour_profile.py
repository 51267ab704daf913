"""ICC profiles: not applied, but named where they are not sRGB.

Stain colours differ more between scanners and laboratories than between RGB profiles, and the
models train on pixels as decoded; a profile applied here and not there would be the worse choice.
"""

import re

_PRINTABLE = re.compile(rb"[\x20-\x7e]{4,80}")
_SRGB_MARKS = (b"sRGB", "sRGB".encode("utf-16-be"), b"IEC61966", "IEC61966".encode("utf-16-be"))


def profile_note(profile: bytes | None) -> str | None:
    """Say that an embedded profile was ignored; None for sRGB or no profile."""
    if not profile or any(mark in profile for mark in _SRGB_MARKS):
        return None
    name = _description(profile)
    return f"ICC profile{name} ignored, colours taken as stored"


def _description(profile: bytes) -> str:
    """Read the profile's own name from its `desc` element (ICC.1:2022, 7.3 and 10.15)."""
    for entry in range(132, min(132 + 12 * 100, len(profile) - 12), 12):
        if profile[entry : entry + 4] != b"desc":
            continue
        offset = int.from_bytes(profile[entry + 4 : entry + 8], "big")
        size = min(int.from_bytes(profile[entry + 8 : entry + 12], "big"), 400)
        text = profile[offset + 12 : offset + size].replace(b"\0", b"")
        found = _PRINTABLE.search(text)
        return f" '{found[0].decode('ascii').strip()}'" if found else ""
    return ""
