r"""A result as an HL7 version 2.5.1 message ORU^R01, in ER7 encoding.

The shape is that of IHE LAB-3 (Order Results Management), without PID: this service knows no
patient, the receiver binds the result by order, specimen or accession.

    MSH      who, when, control id
    ORC OBR  the order: placer number (order_id), filler number (result id), accession (OBR-18),
             the number that the laboratory system gave the order (OBR-20)
      NTE    research use only; quality flags; the review
      OBX    NM count, SN interval, NM density, NM share of the image
    SPM      the specimen

Source: HL7 version 2.5.1, chapters 2 (encoding, escapes), 4 and 7 (ORU, OBR, OBX, SPM).
"""

import datetime as dt
import hashlib
from collections.abc import Sequence

from service.outputs.codes import LOCAL_CODES, UNNAMED_PARTIES, Code, Hl7Parties, ReportCodes
from service.outputs.report import ReportedResult

SEGMENT_END = "\r"
_ENCODING_CHARACTERS = "^~\\&"
# HL7 table 0085 (observation result status) and 0123 (result status): the same four letters.
_STATUS = {"preliminary": "P", "final": "F", "corrected": "C", "cancelled": "X"}
_ESCAPES = str.maketrans(
    {
        "\\": "\\E\\",
        "|": "\\F\\",
        "^": "\\S\\",
        "~": "\\R\\",
        "&": "\\T\\",
        "\r": " ",
        "\n": " ",
        **{chr(code): "" for code in range(32) if chr(code) not in "\r\n"},
    }
)
_GREATEST_CONTROL_ID = 20  # MSH-10


def escape(text: str) -> str:
    r"""Escape what ER7 would read as syntax (chapter 2.7.1); line ends become blanks.

    Example:
        `a|b` becomes `a\F\b`.
    """
    return text.replace("\r\n", "\n").translate(_ESCAPES)


def control_id(result: ReportedResult) -> str:
    """Return MSH-10: the same for the same state of a result, so that a resend is known as one.

    Returns:
        20 hexadecimal digits, the most that version 2.5.1 allows.
    """
    state = "\n".join((result.id, result.status, str(result.count), result.changed_utc))
    return hashlib.sha256(state.encode()).hexdigest()[:_GREATEST_CONTROL_ID]


def build_oru_r01(
    result: ReportedResult, codes: ReportCodes = LOCAL_CODES, parties: Hl7Parties = UNNAMED_PARTIES
) -> bytes:
    r"""Build the message.

    Args:
        result: The result, in any status. The same result gives the same bytes.
        codes: The laboratory's codes.
        parties: Sender and receiver.

    Returns:
        The message in UTF-8, each segment ended by a carriage return; without MLLP's frame.
    """
    changed = _timestamp(result.changed_utc)
    identity = result.identity
    filler = _components(result.id, parties.sending_application)
    status = _STATUS[result.status]
    segments = [
        _segment(
            "MSH",
            {
                2: _ENCODING_CHARACTERS,
                3: escape(parties.sending_application),
                4: escape(parties.sending_facility),
                5: escape(parties.receiving_application),
                6: escape(parties.receiving_facility),
                7: changed,
                9: "ORU^R01^ORU_R01",
                10: control_id(result),
                11: escape(parties.processing_id),
                12: "2.5.1",
                18: "UNICODE UTF-8",
            },
        ),
        _segment("ORC", {1: "RE", 2: escape(identity.order_id or ""), 3: filler}),
        _segment(
            "OBR",
            {
                1: "1",
                2: escape(identity.order_id or ""),
                3: filler,
                4: _coded(codes.report),
                18: escape(identity.accession or ""),
                20: escape(result.filler_number or ""),
                22: changed,
                24: "SP",  # table 0074: surgical pathology
                25: status,
            },
        ),
    ]
    segments += [
        _segment("NTE", {1: str(number), 2: "L", 3: escape(comment)})
        for number, comment in enumerate(result.comments, start=1)
    ]
    segments += _observations(result, codes, status)
    # Without a specimen's own number the accession is what binds the result to glass.
    specimen = identity.specimen_id or identity.accession
    if specimen is not None:
        segments.append(_segment("SPM", {1: "1", 2: escape(specimen), 4: "TISS^Tissue^HL70487"}))
    return "".join(segment + SEGMENT_END for segment in segments).encode("utf-8")


def _observations(result: ReportedResult, codes: ReportCodes, status: str) -> list[str]:
    interval = result.count_interval
    rows = [("NM", codes.count, str(result.count), "{nuclei}^nuclei^UCUM")]
    if interval is not None:
        rows.append(
            (
                "SN",
                codes.count_interval,
                f"^{interval.lower}^-^{interval.upper}",
                "{nuclei}^nuclei^UCUM",
            )
        )
    if result.density_per_mm2 is not None:
        rows.append(
            ("NM", codes.density, f"{result.density_per_mm2:.2f}", "/mm2^per square mm^UCUM")
        )
    rows.append(
        ("NM", codes.area_fraction, f"{100 * result.foreground_fraction:.2f}", "%^percent^UCUM")
    )
    method = _components(
        f"{result.model_name}:{result.model_version}",
        f"{result.software_name} {result.software_version}",
        "L",
    )
    reviewer = "" if result.review is None else escape(result.review.reviewer)
    return [
        _segment(
            "OBX",
            {
                1: str(number),
                2: kind,
                3: _coded(code),
                # OBX-5 and OBX-6 of a result that was rejected are empty (chapter 7.4.2.11, X).
                5: "" if status == "X" else value,
                6: "" if status == "X" else unit,
                11: status,
                16: reviewer,
                17: method,
                18: _components(result.model_digest, "SHA-256"),
                19: _timestamp(result.created_utc),
            },
        )
        for number, (kind, code, value, unit) in enumerate(rows, start=1)
    ]


def _components(*texts: str) -> str:
    return "^".join(escape(text) for text in texts)


def _coded(code: Code) -> str:
    return _components(code.code, code.display, code.hl7_system)


def _timestamp(time_utc: str) -> str:
    """Return an ISO 8601 time as HL7's TS, in UTC, to the millisecond."""
    time = dt.datetime.fromisoformat(time_utc).astimezone(dt.UTC)
    return f"{time:%Y%m%d%H%M%S}.{time.microsecond // 1000:03d}+0000"


def _segment(name: str, fields: dict[int, str]) -> str:
    """Join fields by their numbers in the standard; those not given are empty."""
    # MSH-1 is the field separator itself.
    first = 2 if name == "MSH" else 1
    values: Sequence[str] = [fields.get(number, "") for number in range(first, max(fields) + 1)]
    return "|".join((name, *values)).rstrip("|")
