"""The codes and names that laboratory messages use; every laboratory has its own.

No LOINC code for a count of nuclei in an H&E image was found, so the defaults are local codes: a
receiver can tell at once that they need mapping, where a near miss would be filed as something
else.
"""

from dataclasses import dataclass
from typing import ClassVar

LOCAL_SYSTEM = "urn:karyon:codes"
# Settings are read into these classes by pydantic, and a misspelt member must not be ignored.
_CLOSED = {"extra": "forbid"}


@dataclass(frozen=True)
class Code:
    """One coded concept, as FHIR and as HL7 version 2 name it.

    Attributes:
        code: The code.
        display: What people read.
        system: URI of the code system (FHIR `Coding.system`).
        hl7_system: Name of the code system in HL7 table 0396; `L` is local, `LN` LOINC.
    """

    __pydantic_config__: ClassVar = _CLOSED

    code: str
    display: str
    system: str = LOCAL_SYSTEM
    hl7_system: str = "L"


@dataclass(frozen=True)
class ReportCodes:
    """The concepts of a report.

    Attributes:
        report: The whole report (FHIR DiagnosticReport.code, HL7 OBR-4).
        count: Number of nuclei.
        count_interval: Interval of the number.
        density: Nuclei a square millimetre.
        area_fraction: Share of the image that is nucleus, in per cent.
    """

    __pydantic_config__: ClassVar = _CLOSED

    report: Code = Code("nuclei-analysis", "Nuclei in H&E histology, image analysis")
    count: Code = Code("nuclei-count", "Number of nuclei in image")
    count_interval: Code = Code("nuclei-count-interval", "Interval of the number of nuclei")
    density: Code = Code("nuclei-density", "Nuclei per square millimetre of image")
    area_fraction: Code = Code("nuclei-area-fraction", "Share of the image that is nucleus")


@dataclass(frozen=True)
class IdentifierSystems:
    """The namespaces of the laboratory's identifiers (FHIR `Identifier.system`); None leaves out.

    Attributes:
        accession: Of `accession`.
        specimen: Of `specimen_id`.
        order: Of `order_id`.
    """

    __pydantic_config__: ClassVar = _CLOSED

    accession: str | None = None
    specimen: str | None = None
    order: str | None = None


@dataclass(frozen=True)
class Hl7Parties:
    """Who talks to whom (HL7 MSH-3 to MSH-6), and in which mode (MSH-11).

    Attributes:
        sending_application: MSH-3.
        sending_facility: MSH-4.
        receiving_application: MSH-5.
        receiving_facility: MSH-6.
        processing_id: MSH-11: `P` production, `T` training, `D` debugging.
    """

    __pydantic_config__: ClassVar = _CLOSED

    sending_application: str = "KARYON"
    sending_facility: str = ""
    receiving_application: str = ""
    receiving_facility: str = ""
    processing_id: str = "P"


@dataclass(frozen=True)
class Reporting:
    """All that an installation chooses about its messages.

    Attributes:
        codes: The coded concepts.
        systems: The identifiers' namespaces.
        parties: Sender and receiver of HL7 messages.
    """

    codes: ReportCodes = ReportCodes()
    systems: IdentifierSystems = IdentifierSystems()
    parties: Hl7Parties = Hl7Parties()


LOCAL_CODES = ReportCodes()
"""The codes of an installation that has not mapped them."""
NO_SYSTEMS = IdentifierSystems()
"""Identifiers without namespaces."""
UNNAMED_PARTIES = Hl7Parties()
"""Karyon talks to nobody in particular."""
LOCAL_REPORTING = Reporting()
"""All of these."""
