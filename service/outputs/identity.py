"""Which work a result belongs to: the laboratory's own numbers, never a patient's."""

import re
from dataclasses import dataclass
from typing import Final

GREATEST_IDENTIFIER_LENGTH: Final = 64

# Letters, digits and . _ : / - only: nothing that HL7, FHIR search, CSV, a header or a log line
# would read as syntax. At least one digit: a name has none, an accession number always has.
ALLOWED_IDENTIFIER: Final = r"^(?:[0-9]|[A-Za-z][A-Za-z._:/-]*[0-9])[A-Za-z0-9._:/-]*$"
_IDENTIFIER: Final = re.compile(ALLOWED_IDENTIFIER)


def is_identifier(text: str) -> bool:
    """Tell whether a text may be an identifier of the laboratory."""
    return (
        len(text) <= GREATEST_IDENTIFIER_LENGTH
        and _IDENTIFIER.fullmatch(text) is not None
        and not text.endswith("\n")
    )


@dataclass(frozen=True, slots=True)
class ResultIdentity:
    """The identifiers that a laboratory gave with an image; all optional.

    Attributes:
        accession: Accession number of the case or specimen.
        specimen_id: Identifier of the specimen or slide.
        order_id: Placer order number, the order that the result answers.
    """

    accession: str | None = None
    specimen_id: str | None = None
    order_id: str | None = None


@dataclass(frozen=True, slots=True)
class OrderReference:
    """The order that a result answers, as the result's document names it.

    Attributes:
        id: Identifier of the order in this service.
        placer_number: Number that its placer gave it.
        filler_number: Number that the laboratory system gave it.
    """

    id: str
    placer_number: str
    filler_number: str | None = None


NO_IDENTITY = ResultIdentity()
"""Nothing was given."""
