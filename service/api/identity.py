"""The laboratory's identifiers of a request, and the refusal of a patient's.

A result is bound to its case by `accession`, `specimen_id` and `order_id`, which the laboratory
system maps to a patient. Names, birth dates and record numbers have no use here and would turn
every copy of a result into protected health information (45 CFR 164.514(b)(2), GDPR article 5(1)(c)
"data minimisation"): a request that carries one is refused, not silently stripped.
"""

import re
from collections.abc import Iterable
from typing import Annotated, Final

from pydantic import Field

from service.errors import PatientDataError
from service.outputs.identity import (
    ALLOWED_IDENTIFIER,
    GREATEST_IDENTIFIER_LENGTH,
    ResultIdentity,
)

__all__ = [
    "ALLOWED_IDENTIFIER",
    "GREATEST_IDENTIFIER_LENGTH",
    "IDENTITY_FIELDS",
    "Identifier",
    "ResultIdentity",
    "is_patient_field",
    "refuse_patients",
]

IDENTITY_FIELDS: Final = ("accession", "specimen_id", "order_id")
"""What a request may carry, in the query or as form fields."""

Identifier = Annotated[
    str,
    Field(min_length=1, max_length=GREATEST_IDENTIFIER_LENGTH, pattern=ALLOWED_IDENTIFIER),
]
"""A laboratory identifier as it may be sent."""

_PATIENT_WORDS: Final = frozenset(
    {
        "address", "age", "birthdate", "birthday", "city", "dateofbirth", "dob", "email",
        "ethnicity", "familyname", "firstname", "forename", "fullname", "gender", "givenname",
        "healthcardnumber", "hospitalnumber", "insurancenumber", "lastname", "maidenname",
        "medicalrecord", "medicalrecordnumber", "middlename", "mobile", "mrn", "name",
        "nationalid", "nhsnumber", "nhs", "pid", "phone", "phonenumber", "postcode", "race", "sex",
        "socialsecuritynumber", "ssn", "street", "surname", "telephone", "zip", "zipcode",
    }
)  # fmt: skip
_NOT_ALPHANUMERIC = re.compile(r"[^a-z0-9]+")


def is_patient_field(name: str) -> bool:
    """Tell whether a field of that name would identify a patient.

    Case and separators do not matter: `Birth-Date`, `birth_date` and `birthDate` are one field.
    """
    word = _NOT_ALPHANUMERIC.sub("", name.lower())
    return word in _PATIENT_WORDS or word.startswith("patient") or "birth" in word


def refuse_patients(names: Iterable[str]) -> None:
    """Refuse fields that would identify a patient, by their names; values are never looked at.

    Raises:
        PatientDataError: One of them would.
    """
    for name in names:
        if is_patient_field(name):
            raise PatientDataError(patient_message(name), parameter=name[:64])


def patient_message(name: str) -> str:
    """Say why a field is refused; its value is never repeated."""
    return (
        f"{name[:64]!r} would identify a patient, which this service neither needs nor keeps. Send"
        f" {', '.join(IDENTITY_FIELDS)} instead; the laboratory system knows whose they are."
    )
