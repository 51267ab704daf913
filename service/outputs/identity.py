"""Which work a result belongs to: the laboratory's own numbers, never a patient's."""

from dataclasses import dataclass


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


NO_IDENTITY = ResultIdentity()
"""Nothing was given."""
