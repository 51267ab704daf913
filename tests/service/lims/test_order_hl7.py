"""OML^O21 in, orders out; acknowledgements against hl7apy's strict validation."""

import hl7
import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message

from service.api.order_answers import ACK_EXAMPLE, OML_EXAMPLE
from service.errors import (
    KaryonError,
    MalformedOrderError,
    RecordsUnavailableError,
    UnusableOrderError,
)
from service.lims.acknowledgement import acknowledge
from service.lims.order_hl7 import Hl7Header, parse_orders, read_header
from service.outputs.codes import Hl7Parties
from service.records.orders import OrderRequest


def parse(text: str) -> list[OrderRequest]:
    return parse_orders(text.encode(), processing_id="P")


def test_the_example_is_a_valid_message_and_an_order() -> None:
    parsed = parse_message(OML_EXAMPLE, validation_level=VALIDATION_LEVEL.STRICT, find_groups=True)
    assert parsed.msh.msh_9.to_er7() == "OML^O21^OML_O21"
    acknowledged = parse_message(ACK_EXAMPLE, validation_level=VALIDATION_LEVEL.STRICT)
    assert acknowledged.validate()
    (request,) = parse(OML_EXAMPLE)
    assert request == OrderRequest(
        "place", "ORD-778812", "S26-1234", "LAB-26-0991", "S26-1234-A1", "ORC^1^2"
    )


def test_a_patient_is_not_read_and_other_dialects_are() -> None:
    text = OML_EXAMPLE.replace("\rORC", "\rPID|1||12345^^^MRN||Möller^Erika||19800101|F\rORC")
    assert "Möller" not in str(parse(text))
    assert parse_orders(text.encode("latin-1"), processing_id="P") == parse(OML_EXAMPLE)
    for end in ("\n", "\r\n"):
        assert parse(text.replace("\r", end)) == parse(OML_EXAMPLE)
    others = text.replace("\\T\\", "").translate(str.maketrans("|^~&", "#!*%"))
    assert parse(others) == parse(OML_EXAMPLE)
    components = OML_EXAMPLE.replace("ORC|NW|ORD-778812|", "ORC|NW|ORD-778812^LIS~OTHER|")
    components = components.replace("S26-1234-A1", "S26-1234-A1&LAB^F-2&LAB")
    assert parse(components) == parse(OML_EXAMPLE)


def test_hl7_null_is_no_value() -> None:
    text = OML_EXAMPLE.replace("LAB-26-0991", '""').replace("S26-1234-A1", '""')
    (request,) = parse(text)
    assert (request.filler_number, request.specimen_id) == (None, None)
    with pytest.raises(UnusableOrderError, match="missing"):
        parse(OML_EXAMPLE.replace("ORD-778812", '""'))


@pytest.mark.parametrize("separators", ["|^~&", "#!*%"])
def test_an_acknowledgement_repeats_what_was_escaped_as_it_came(separators: str) -> None:
    # A sender matches MSA-2 with its own MSH-10: escaped twice, it would be another message's.
    text = OML_EXAMPLE.replace("MSG-1001", "A\\T\\B\\F\\C\\S\\D\\R\\E\\E\\F")
    text = text.replace("|LIS|", "|Lab \\T\\ Co|").replace("H\\T\\E", "HE")
    message = text.translate(str.maketrans("|^~&", separators)).encode()
    header = read_header(message)
    assert header.control_id == "A{3}B{0}C{1}D{2}E\\F".format(*separators)
    answer = acknowledge(message, header, Hl7Parties())
    if separators == "|^~&":
        assert b"\rMSA|AA|A\\T\\B\\F\\C\\S\\D\\R\\E\\E\\F\r" in answer
        assert b"|Lab \\T\\ Co|" in answer
    parsed = hl7.parse(answer.decode())
    assert parsed.unescape(str(parsed.segment("MSA")[2])) == header.control_id


def test_several_orders_and_specimens() -> None:
    orders = "".join(
        f"ORC|NW|O-{number}\rOBR|{number}{'|' * 17}S26-{number}\r" for number in (1, 2)
    )
    text = OML_EXAMPLE.split("ORC", maxsplit=1)[0] + orders + "SPM|1|A1\rSPM|2|A2\rORC|CA|O-3\r"
    assert [(r.action, r.placer_number, r.accession, r.specimen_id) for r in parse(text)] == [
        ("place", "O-1", "S26-1", None),
        ("place", "O-2", "S26-2", None),
        ("cancel", "O-3", None, None),
    ]


@pytest.mark.parametrize(
    ("old", "new", "code", "location"),
    [
        ("OML^O21", "ORU^R01", 200, "MSH^1^9^1^1"),
        ("OML^O21", "OML^O33", 201, "MSH^1^9^1^2"),
        ("|P|2.5.1", "|T|2.5.1", 202, "MSH^1^11"),
        ("|P|2.5.1", "|P|2.3", 203, "MSH^1^12"),
        ("MSG-1001", "", 101, "MSH^1^10"),
        ("MSH|", "MSX|", 100, ""),
        ("MSH|^~\\&|", "MSH|^~|", 100, ""),
    ],
)
def test_what_is_not_for_us_is_rejected(old: str, new: str, code: int, location: str) -> None:
    with pytest.raises(MalformedOrderError) as refused:
        parse(OML_EXAMPLE.replace(old, new))
    assert (refused.value.code, refused.value.location) == (code, location)


@pytest.mark.parametrize(
    ("old", "new", "code", "location"),
    [
        ("ORC|NW|", "ORC|XO|", 103, "ORC^1^1"),
        ("ORD-778812", "", 101, "ORC^1^2"),
        ("ORD-778812", "Mustermann", 102, "ORC^1^2"),
        ("ORD-778812", "9" * 65, 104, "ORC^1^2"),
        ("LAB-26-0991", "=1+1", 102, "ORC^1^3"),
        ("S26-1234\r", "\r", 101, "OBR^1^18"),
        ("S26-1234\r", "S26 1234\r", 102, "OBR^1^18"),
        ("S26-1234-A1", "A\\T\\1", 102, "SPM^1^2"),
        ("OBR|", "NTE|", 100, "ORC^1"),
        ("ORC|", "NTE|", 100, "OBR"),
    ],
)
def test_what_cannot_be_carried_out_says_where(
    old: str, new: str, code: int, location: str
) -> None:
    with pytest.raises(UnusableOrderError) as refused:
        parse(OML_EXAMPLE.replace(old, new))
    assert not isinstance(refused.value, MalformedOrderError)
    assert (refused.value.code, refused.value.location) == (code, location)
    assert "Mustermann" not in str(refused.value)


def test_a_message_of_too_many_orders_is_refused() -> None:
    with pytest.raises(UnusableOrderError, match="100"):
        parse(OML_EXAMPLE + "ORC|CA|O-1\r" * 100)


@pytest.mark.parametrize(
    ("error", "code", "number"),
    [
        (None, "AA", ""),
        (UnusableOrderError("It | lacks", location="OBR^1^18"), "AE", "101"),
        (MalformedOrderError("Another type", location="MSH^1^9^1^1", code=200), "AR", "200"),
        (RecordsUnavailableError("later"), "AR", "207"),
    ],
)
def test_acknowledgements_are_valid(error: KaryonError | None, code: str, number: str) -> None:
    message = OML_EXAMPLE.encode()
    text = acknowledge(message, read_header(message), Hl7Parties(), error).decode()
    parsed = parse_message(text, validation_level=VALIDATION_LEVEL.STRICT)
    assert parsed.validate()
    answer = hl7.parse(text)
    header = answer.segment("MSH")
    assert [str(header[field]) for field in (3, 4, 5, 6)] == [
        "KARYON", "PATHOLOGY", "LIS", "HOSPITAL",
    ]  # fmt: skip
    assert [str(answer.segment("MSA")[field]) for field in (1, 2)] == [code, "MSG-1001"]
    if number:
        assert str(answer.segment("ERR")[3][0][0]) == number


def test_what_has_no_header_is_acknowledged_all_the_same() -> None:
    error = MalformedOrderError("No message", code=100)
    text = acknowledge(b"?", Hl7Header(), Hl7Parties(), error).decode()
    assert parse_message(text, validation_level=VALIDATION_LEVEL.STRICT).validate()
    assert str(hl7.parse(text).segment("MSA")[2]) == "UNKNOWN"
