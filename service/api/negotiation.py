"""Which representation the client accepts (RFC 9110, section 12.5.1)."""

import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from service.errors import NotAcceptableError

JSON = "application/json"
PNG = "image/png"
GEOJSON = "application/geo+json"
CSV = "text/csv"
FHIR = "application/fhir+json"
HL7 = "application/hl7-v2"
HL7_ER7 = "x-application/hl7-v2+er7"  # what HAPI's HL7 over HTTP and NIST's tools ask for
COCO = "application/vnd.karyon.coco+json"
OFFERED = (JSON, PNG, GEOJSON, CSV, FHIR, HL7, HL7_ER7, COCO)
"""What `POST /segment` can answer; the first is the default, the earlier wins ties."""

Format = Literal["json", "png", "geojson", "csv", "fhir", "hl7", "coco"]
"""Short names of the same, for clients that cannot set Accept."""
MEDIA_TYPE_OF: Final[Mapping[Format, str]] = {
    "json": JSON, "png": PNG, "geojson": GEOJSON, "csv": CSV, "fhir": FHIR, "hl7": HL7,
    "coco": COCO,
}  # fmt: skip

_NAME = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_MEDIA_RANGE = re.compile(rf"({_NAME})/({_NAME})")
_QUALITY = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")


def _parse_range(element: str) -> tuple[str, float] | None:
    """Return (media range, quality) of one element of Accept, or None where it is malformed."""
    media, *parameters = (piece.strip() for piece in element.split(";"))
    if not _MEDIA_RANGE.fullmatch(media):
        return None
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            if not _QUALITY.fullmatch(value.strip()):
                return None
            quality = float(value)
    return media.lower(), quality


def _specificity(media_range: str, offered: str) -> int:
    """Return 3 for the type itself, 2 for `type/*`, 1 for `*/*`, 0 for no match."""
    if media_range == offered:
        return 3
    if media_range == f"{offered.partition('/')[0]}/*":
        return 2
    return 1 if media_range == "*/*" else 0


def choose_representation(accept: str | None, offered: Sequence[str] = OFFERED) -> str:
    """Choose the media type to answer with.

    The most specific range that matches a type gives its quality; the highest quality wins, the
    earlier in `offered` on a tie. Elements that are no media range are skipped; an absent or empty
    header accepts everything.

    Args:
        accept: Value of the Accept header (several lines joined by commas), or None.
        offered: Media types that can be made, the preferred one first.

    Returns:
        One of `offered`.

    Raises:
        NotAcceptableError: The client accepts none of them.
    """
    if accept is None or not accept.strip():
        return offered[0]
    ranges = [parsed for element in accept.split(",") if (parsed := _parse_range(element))]
    best, best_quality = None, 0.0
    for media_type in offered:
        matches = [
            (specificity, quality)
            for media_range, quality in ranges
            if (specificity := _specificity(media_range, media_type))
        ]
        quality = max(matches)[1] if matches else 0.0
        if quality > best_quality:
            best, best_quality = media_type, quality
    if best is None:
        raise NotAcceptableError(
            f"The answer can be {' or '.join(offered)}; Accept allows none of them."
        )
    return best
