"""Orders from FHIR R4 Bundles (transaction, collection) of ServiceRequest and Specimen.

```
 ServiceRequest                               Specimen
   status      active places, revoked cancels   accessionIdentifier   accession number
   identifier  PLAC placer, FILL filler,        identifier            specimen
               ACSN accession                          ▲
   specimen ───────────────────────────────────────────┘ by fullUrl, Type/id, #contained, identifier
```
Other resources of the bundle (Patient, Practitioner, Task) and all other members are not read:
whose specimen it is stays with the laboratory system. Source: FHIR R4 (4.0.1), HL7 table 0203.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import MalformedOrderError, UnusableOrderError
from service.lims.order_numbers import MOST_ORDERS, checked_number, required_number, single
from service.records.orders import OrderRequest

_MOST_ENTRIES: Final = 1000
_MOST_LISTED: Final = 100
_ORDERS: Final = frozenset(
    {"order", "original-order", "reflex-order", "filler-order", "instance-order"}
)
_CANCELLED: Final = frozenset({"revoked", "entered-in-error"})
_METHODS: Final = frozenset({"POST", "PUT"})


class _Part(BaseModel):
    """Base: what is not named is not read."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _Coding(_Part):
    code: str | None = None


class _Concept(_Part):
    coding: Annotated[list[_Coding], Field(max_length=_MOST_LISTED)] = []


class _Identifier(_Part):
    type: _Concept | None = None
    value: str | None = None

    def is_a(self, code: str) -> bool:
        """Tell whether it is of a type of HL7 table 0203."""
        return self.type is not None and any(item.code == code for item in self.type.coding)


_Identifiers = Annotated[list[_Identifier], Field(max_length=_MOST_LISTED)]


class _Reference(_Part):
    reference: str | None = None
    identifier: _Identifier | None = None


class _Specimen(_Part):
    identifier: _Identifiers = []
    accessionIdentifier: _Identifier | None = None  # noqa: N815  FHIR's own name


class _ServiceRequest(_Part):
    status: str
    intent: str
    doNotPerform: bool = False  # noqa: N815  FHIR's own name
    identifier: _Identifiers = []
    specimen: Annotated[list[_Reference], Field(max_length=_MOST_LISTED)] = []
    contained: Annotated[list[dict[str, Any]], Field(max_length=_MOST_LISTED)] = []


class _Request(_Part):
    method: str


class _Entry(_Part):
    fullUrl: str | None = None  # noqa: N815  FHIR's own name
    resource: dict[str, Any]
    request: _Request | None = None


class _Bundle(_Part):
    resourceType: Literal["Bundle"]  # noqa: N815  FHIR's own name
    type: Literal["transaction", "collection"]
    entry: Annotated[list[_Entry], Field(min_length=1, max_length=_MOST_ENTRIES)]


_Model = TypeVar("_Model", bound=_Part)


def parse_bundle(data: bytes) -> list[OrderRequest]:
    """Read the orders of a bundle. Blocking.

    Args:
        data: JSON in UTF-8.

    Raises:
        MalformedOrderError: It is no JSON, or no Bundle of these types.
        UnusableOrderError: It is one, and an order in it cannot be placed or cancelled.
    """
    try:
        bundle = _Bundle.model_validate_json(data)
    except ValidationError as error:
        location, message = _first(error)
        raise MalformedOrderError(f"No bundle of orders: {message}.", location=location) from error
    specimens = dict(_specimens(bundle))
    requests = [
        _request(entry, f"entry.{number}", specimens)
        for number, entry in enumerate(bundle.entry)
        if entry.resource.get("resourceType") == "ServiceRequest"
    ]
    if not 0 < len(requests) <= MOST_ORDERS:
        raise UnusableOrderError(
            f"A bundle has at least one ServiceRequest and at most {MOST_ORDERS}.",
            location="entry",
        )
    return requests


def _first(error: ValidationError) -> tuple[str, str]:
    """Return where the first fault is and what; never the value, which may be a patient's."""
    detail = error.errors(include_input=False, include_context=False)[0]
    return ".".join(str(step) for step in detail["loc"]), detail["msg"]


def _validated(model: type[_Model], resource: dict[str, Any], location: str) -> _Model:
    try:
        return model.model_validate(resource)
    except ValidationError as error:
        where, message = _first(error)
        raise UnusableOrderError(
            f"{resource.get('resourceType')}: {message}.", location=f"{location}.{where}", code=102
        ) from error


def _specimens(bundle: _Bundle) -> Iterator[tuple[str, tuple[str, _Specimen]]]:
    """Yield location and specimen by each name that a reference may use."""
    for number, entry in enumerate(bundle.entry):
        if entry.resource.get("resourceType") != "Specimen":
            continue
        location = f"entry.{number}.resource"
        found = location, _validated(_Specimen, entry.resource, location)
        if entry.fullUrl is not None:
            yield entry.fullUrl, found
        if isinstance(entry.resource.get("id"), str):
            yield f"Specimen/{entry.resource['id']}", found


def _request(
    entry: _Entry, location: str, specimens: dict[str, tuple[str, _Specimen]]
) -> OrderRequest:
    if entry.request is not None and entry.request.method not in _METHODS:
        raise UnusableOrderError(
            "A ServiceRequest is sent by POST or PUT; its status cancels it.",
            location=f"{location}.request.method",
            code=103,
        )
    location = f"{location}.resource"
    asked = _validated(_ServiceRequest, entry.resource, location)
    placer = required_number(
        _typed(asked.identifier, "PLAC") or _untyped(asked.identifier),
        what="placer order number",
        location=f"{location}.identifier",
    )
    if asked.status in _CANCELLED:
        return OrderRequest("cancel", placer, location=location)
    _check_wanted(asked, location)
    pointed = list(_pointed(asked, location, specimens))
    accessions = [
        checked_number(text, what="accession number", location=where)
        for where, text in _accessions(asked, location, pointed)
    ]
    return OrderRequest(
        "place",
        placer,
        accession=required_number(
            single(accessions), what="one accession number", location=f"{location}.specimen"
        ),
        filler_number=checked_number(
            _typed(asked.identifier, "FILL"),
            what="filler order number",
            location=f"{location}.identifier",
        ),
        # Of several, the image says which it shows.
        specimen_id=single(
            checked_number(item.value, what="specimen number", location=f"{where}.identifier")
            for where, specimen in pointed
            for item in specimen.identifier[:1]
        ),
        location=location,
    )


def _check_wanted(asked: _ServiceRequest, location: str) -> None:
    if asked.status != "active":
        raise UnusableOrderError(
            "A ServiceRequest is placed by the status active and cancelled by revoked.",
            location=f"{location}.status",
            code=103,
        )
    if asked.intent not in _ORDERS or asked.doNotPerform:
        raise UnusableOrderError(
            "The ServiceRequest orders nothing: its intent must be an order, to be performed.",
            location=f"{location}.intent",
            code=103,
        )


def _pointed(
    asked: _ServiceRequest, location: str, specimens: dict[str, tuple[str, _Specimen]]
) -> Iterator[tuple[str, _Specimen]]:
    """Yield location and specimen for each reference of a request."""
    contained = {
        f"#{resource.get('id')}": (
            f"{location}.contained.{number}",
            _validated(_Specimen, resource, f"{location}.contained.{number}"),
        )
        for number, resource in enumerate(asked.contained)
        if resource.get("resourceType") == "Specimen"
    }
    for number, pointer in enumerate(asked.specimen):
        where = f"{location}.specimen.{number}"
        name = pointer.reference or ""
        found = contained.get(name) or specimens.get(name)
        if found is None and pointer.identifier is not None:
            found = where, _Specimen(identifier=[pointer.identifier])
        if found is None:
            raise UnusableOrderError(
                "The Specimen that is referred to is not in the bundle.", location=where, code=204
            )
        yield found


def _accessions(
    asked: _ServiceRequest, location: str, pointed: list[tuple[str, _Specimen]]
) -> Iterator[tuple[str, str | None]]:
    yield f"{location}.identifier", _typed(asked.identifier, "ACSN")
    for where, specimen in pointed:
        if specimen.accessionIdentifier is not None:
            yield f"{where}.accessionIdentifier", specimen.accessionIdentifier.value


def _typed(identifiers: list[_Identifier], code: str) -> str | None:
    return next((item.value for item in identifiers if item.is_a(code)), None)


def _untyped(identifiers: list[_Identifier]) -> str | None:
    return next((item.value for item in identifiers if item.type is None), None)
