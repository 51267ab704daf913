r"""Orders from HL7 version 2.5.1 messages OML^O21, in ER7 encoding.

    MSH            type OML^O21, version, mode
    PID PV1 NTE    not read: whose specimen it is stays with the laboratory system
    ORC            NW places, CA cancels; ORC-2 placer number, ORC-3 filler number
      OBR          OBR-2, OBR-3 the same where ORC has none; OBR-18 accession number
      SPM          SPM-2 specimen

The places are those that our own ORU^R01 has them in. A field's first repetition and component
count. Source: HL7 version 2.5.1, chapters 2 (encoding) and 4 (OML^O21, ORC, OBR), 7 (SPM).
"""

import re
from dataclasses import dataclass, field
from typing import Final

from service.errors import MalformedOrderError, UnusableOrderError
from service.lims.order_numbers import MOST_ORDERS, checked_number, required_number, single
from service.records.orders import OrderRequest

_HEADER: Final = re.compile(r"MSH([^A-Za-z0-9\s])([^A-Za-z0-9\s]{4,5})\1")
_VERSIONS: Final = ("2.5", "2.5.1")
_ACTIONS: Final = ("NW", "CA")
_NULL: Final = '""'  # "no value", where an empty field would mean "not told" (chapter 2.5.3.1)
_LONGEST_CONTROL_ID: Final = 199  # version 2.5.1 has 20, later versions 199


@dataclass(frozen=True, slots=True)
class Hl7Header:
    """What an acknowledgement and the check of a message need of MSH; `""` where it is not given.

    Attributes:
        sending_application: MSH-3, first component, as all of them.
        sending_facility: MSH-4.
        receiving_application: MSH-5.
        receiving_facility: MSH-6.
        message_code: MSH-9.1.
        trigger_event: MSH-9.2.
        control_id: MSH-10.
        processing_id: MSH-11.
        version: MSH-12.
    """

    sending_application: str = ""
    sending_facility: str = ""
    receiving_application: str = ""
    receiving_facility: str = ""
    message_code: str = ""
    trigger_event: str = ""
    control_id: str = ""
    processing_id: str = ""
    version: str = ""


class _Message:
    """The segments of a message, split by the separators that it declares."""

    def __init__(self, data: bytes) -> None:
        # Numbers are ASCII; what else there is, in whatever character set, is not read.
        text = data.decode("utf-8", "replace").lstrip("\ufeff").strip("\r\n")
        header = _HEADER.match(text)
        if header is None:
            raise MalformedOrderError(
                "The message does not begin with an MSH segment of version 2.", code=100
            )
        self._field, self._component = header[1], header[2][0]
        self._repetition, escape, self._subcomponent = header[2][1], header[2][2], header[2][3]
        # The separators and the escape character itself (chapter 2.7.1); other sequences are
        # formatting, and mean nothing in a number or a name.
        self._escaped = re.compile(f"{re.escape(escape)}([FSTRE]){re.escape(escape)}")
        self._meanings = {
            "F": self._field,
            "S": self._component,
            "T": self._subcomponent,
            "R": self._repetition,
            "E": escape,
        }
        lines = re.split(r"\r\n|\r|\n", text)
        self.segments = [line.split(self._field) for line in lines if line]
        # MSH-1 is the separator itself; put back, fields have the numbers of the standard.
        self.segments[0].insert(1, self._field)

    def value(self, segment: list[str], number: int, component: int = 1) -> str:
        """Return a component of a field's first repetition, without its subcomponents.

        Escape sequences are resolved: the value is what the sender means, and is escaped anew, by
        our own separators, where it is repeated. Two double quotes are HL7's null: no value.
        """
        if number >= len(segment):
            return ""
        components = segment[number].split(self._repetition)[0].split(self._component)
        if component > len(components):
            return ""
        raw = components[component - 1].split(self._subcomponent)[0].strip()
        return "" if raw == _NULL else self._escaped.sub(self._resolve, raw)

    def _resolve(self, sequence: re.Match[str]) -> str:
        return self._meanings[sequence[1]]


@dataclass(slots=True)
class _Group:
    """The segments of one order; their places in the message for whoever must mend it."""

    orc: list[str]
    place: int
    obr: list[str] | None = None
    specimens: list[tuple[int, list[str]]] = field(default_factory=list)


def read_header(data: bytes) -> Hl7Header:
    """Return the header of a message of any type, for its acknowledgement.

    Raises:
        MalformedOrderError: It has none.
    """
    return _header(_Message(data))


def _header(message: _Message) -> Hl7Header:
    def value(number: int, component: int = 1) -> str:
        return message.value(message.segments[0], number, component)

    return Hl7Header(
        sending_application=value(3),
        sending_facility=value(4),
        receiving_application=value(5),
        receiving_facility=value(6),
        message_code=value(9),
        trigger_event=value(9, 2),
        control_id=value(10),
        processing_id=value(11),
        version=value(12),
    )


def parse_orders(data: bytes, *, processing_id: str) -> list[OrderRequest]:
    """Read the orders of a message. Blocking for as long as its bytes take to split.

    Args:
        data: The message without MLLP's frame.
        processing_id: MSH-11 of messages that are for this service: a training message must not
            become an order of a productive one.

    Raises:
        MalformedOrderError: It is no message, or none of this type, version or mode.
        UnusableOrderError: It is one, and an order in it cannot be placed or cancelled.
    """
    message = _Message(data)
    _check_header(_header(message), processing_id)
    groups = _groups(message)
    if len(groups) > MOST_ORDERS:
        raise UnusableOrderError(
            f"A message may have at most {MOST_ORDERS} orders.", location="ORC", code=104
        )
    return [_request(message, group) for group in groups]


def _check_header(header: Hl7Header, processing_id: str) -> None:
    problem: tuple[str, str, int] | None = None
    if header.message_code != "OML":
        problem = ("Only messages of type OML^O21 are taken here.", "MSH^1^9^1^1", 200)
    elif header.trigger_event != "O21":
        problem = ("Only messages of type OML^O21 are taken here.", "MSH^1^9^1^2", 201)
    elif header.processing_id != processing_id:
        problem = ("The processing id is not that of this service.", "MSH^1^11", 202)
    elif header.version not in _VERSIONS:
        problem = (f"Only versions {' and '.join(_VERSIONS)} are taken here.", "MSH^1^12", 203)
    elif not 0 < len(header.control_id) <= _LONGEST_CONTROL_ID:
        problem = ("The message control id is missing or too long.", "MSH^1^10", 101)
    if problem is not None:
        message, location, code = problem
        raise MalformedOrderError(message, location=location, code=code)


def _groups(message: _Message) -> list[_Group]:
    groups: list[_Group] = []
    specimens = 0
    for segment in message.segments[1:]:
        if segment[0] == "ORC":
            groups.append(_Group(segment, len(groups) + 1))
        elif segment[0] in ("OBR", "SPM") and not groups:
            raise UnusableOrderError(
                f"{segment[0]} stands before any ORC.", location=segment[0], code=100
            )
        elif segment[0] == "OBR":
            groups[-1].obr = groups[-1].obr or segment
        elif segment[0] == "SPM":
            specimens += 1
            groups[-1].specimens.append((specimens, segment))
    if not groups:
        raise UnusableOrderError("The message has no ORC segment.", location="ORC", code=100)
    return groups


def _request(message: _Message, group: _Group) -> OrderRequest:
    place, orc, obr = group.place, group.orc, group.obr or []
    control = message.value(orc, 1)
    if control not in _ACTIONS:
        raise UnusableOrderError(
            f"ORC-1 can be {' or '.join(_ACTIONS)}.", location=f"ORC^{place}^1", code=103
        )
    placer = required_number(
        message.value(orc, 2) or message.value(obr, 2),
        what="placer order number",
        location=f"ORC^{place}^2",
    )
    if control == "CA":
        return OrderRequest("cancel", placer, location=f"ORC^{place}^2")
    if group.obr is None:
        raise UnusableOrderError(
            "A new order needs an OBR segment.", location=f"ORC^{place}", code=100
        )
    specimens = [
        checked_number(
            # The placer's number of the specimen, else the filler's (both parts of an EIP).
            message.value(segment, 2) or message.value(segment, 2, 2),
            what="specimen number",
            location=f"SPM^{number}^2",
        )
        for number, segment in group.specimens
    ]
    return OrderRequest(
        "place",
        placer,
        accession=required_number(
            message.value(obr, 18), what="accession number", location=f"OBR^{place}^18"
        ),
        filler_number=checked_number(
            message.value(orc, 3) or message.value(obr, 3),
            what="filler order number",
            location=f"ORC^{place}^3",
        ),
        # Of several, the image says which it shows.
        specimen_id=single(specimens),
        location=f"ORC^{place}^2",
    )
