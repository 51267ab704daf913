"""Messages against hl7apy's strict validation of version 2.5.1, and through the `hl7` parser."""

from collections.abc import Callable
from typing import Any

import hl7
import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.exceptions import HL7apyException
from hl7apy.parser import parse_message

from service.outputs.codes import Code, Hl7Parties, ReportCodes
from service.outputs.hl7 import build_oru_r01, control_id, escape
from service.outputs.report import reported_result

DocumentFactory = Callable[..., dict[str, Any]]


def message_of(document: dict[str, Any], **options: Any) -> str:
    """Build a message and hold it to the strict profile."""
    text = build_oru_r01(reported_result(document), **options).decode("utf-8")
    parsed = parse_message(text, validation_level=VALIDATION_LEVEL.STRICT, find_groups=True)
    assert parsed.validate()
    assert parsed.msh.msh_9.to_er7() == "ORU^R01^ORU_R01"
    return text


def test_every_state_is_a_valid_message(any_document: dict[str, Any]) -> None:
    text = message_of(any_document)
    assert "\n" not in text
    assert text.endswith("\r")
    parsed = hl7.parse(text)
    status = {"preliminary": "P", "final": "F", "corrected": "C", "cancelled": "X"}[
        any_document["status"]
    ]
    assert {str(segment[11]) for segment in parsed["OBX"]} == {status}
    assert str(parsed.segment("OBR")[25]) == status
    assert str(parsed.segment("OBR")[3][0][0]) == any_document["id"]
    assert len(str(parsed.segment("MSH")[10])) <= 20
    count = parsed["OBX"][0]
    assert str(count[2]) == "NM"
    assert str(count[5]) == ("" if status == "X" else str(any_document["count"]))


def test_strict_validation_refuses_what_is_wrong(result_document: DocumentFactory) -> None:
    text = build_oru_r01(reported_result(result_document())).decode()
    missing = text.replace("|2.5.1|", "||")
    with pytest.raises(HL7apyException):
        parse_message(missing, validation_level=VALIDATION_LEVEL.STRICT).validate()


def test_identity_and_figures_have_their_places(result_document: DocumentFactory) -> None:
    interval = {"lower": 118, "upper": 145, "level": 0.9, "method": "quantiles"}
    document = result_document(count_interval=interval)
    parsed = hl7.parse(message_of(document))
    assert str(parsed.segment("OBR")[2]) == "ORD-778812"
    assert str(parsed.segment("OBR")[18]) == "S26-1234"
    assert str(parsed.segment("SPM")[2]) == "S26-1234-A1"
    kinds = [(str(row[2]), str(row[3][0][0]), str(row[5])) for row in parsed["OBX"]]
    assert kinds == [
        ("NM", "nuclei-count", str(document["count"])),
        ("SN", "nuclei-count-interval", "^118^-^145"),
        ("NM", "nuclei-density", f"{document['density_per_mm2']:.2f}"),
        ("NM", "nuclei-area-fraction", f"{100 * document['foreground_fraction']:.2f}"),
    ]
    assert not any(str(row[7]) for row in parsed["OBX"]), "an interval is no reference range"
    assert "PID" not in [str(segment[0]) for segment in parsed]


def test_what_reads_as_syntax_is_escaped(result_document: DocumentFactory) -> None:
    reason = "a|b^c~d&e\\f\r\ng"
    review = {"reviewer": "dr|x", "reason": reason, "time_utc": "2026-11-23T08:15:00Z"}
    text = message_of(result_document(status="final", review=review))
    parsed = hl7.parse(text)
    last = parsed["NTE"][-1]
    assert parsed.unescape(str(last[3])) == f"Final by dr|x: {reason.replace(chr(13), '')}".replace(
        "\n", " "
    )
    assert str(parsed["OBX"][0][16]) == r"dr\F\x"
    assert escape("\\F\\") == "\\E\\F\\E\\"
    assert escape("a\x00\x0bb\x1c") == "ab"


def test_codes_and_parties_are_the_laboratory_s(result_document: DocumentFactory) -> None:
    text = message_of(
        result_document(),
        codes=ReportCodes(count=Code("NUC", "Nuclei & co", hl7_system="99LAB")),
        parties=Hl7Parties("AI", "PATH", "LIS", "HOSP", "T"),
    )
    parsed = hl7.parse(text)
    assert [str(parsed.segment("MSH")[number]) for number in (3, 4, 5, 6, 11)] == [
        "AI", "PATH", "LIS", "HOSP", "T",
    ]  # fmt: skip
    assert str(parsed["OBX"][0][3]) == r"NUC^Nuclei \T\ co^99LAB"


def test_a_resend_has_the_same_control_id_and_a_change_another(
    result_document: DocumentFactory,
) -> None:
    first = reported_result(result_document())
    review = {"reviewer": "a", "reason": "b", "time_utc": "2026-11-23T08:15:00Z"}
    second = reported_result(result_document(status="final", review=review))
    assert control_id(first) == control_id(reported_result(result_document()))
    assert control_id(first) != control_id(second)
    assert build_oru_r01(first) == build_oru_r01(reported_result(result_document()))
