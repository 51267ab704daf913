"""The FHIR data types that our resources are made of, as plain dicts."""

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from service.outputs.codes import Code

Resource = dict[str, Any]
"""A resource, or a part of one."""

URI_SYSTEM: Final = "urn:ietf:rfc:3986"
"""FHIR's system of identifiers that are URIs."""
_UCUM = "http://unitsofmeasure.org"
_PARTICIPANT_SYSTEM = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def text(value: str) -> str:
    """Return a text as FHIR's `string` may be: no control characters, and never empty."""
    return _CONTROL.sub("", value).strip() or "not stated"


def concept(code: Code) -> Resource:
    """Return a CodeableConcept."""
    return {
        "coding": [{"system": code.system, "code": code.code, "display": code.display}],
        "text": code.display,
    }


def quantity(value: float, unit: str, code: str) -> Resource:
    """Return a Quantity with a UCUM code."""
    return {"value": value, "unit": unit, "system": _UCUM, "code": code}


def identifier(value: str, system: str | None) -> Resource:
    """Return an Identifier; None is no name space."""
    return {"value": value} if system is None else {"system": system, "value": value}


def reference(resource_type: str, resource_id: str) -> Resource:
    """Return a Reference to another resource of the bundle."""
    return {"reference": f"urn:uuid:{resource_id}", "type": resource_type}


def participant(code: str) -> Resource:
    """Return the type of a Provenance agent."""
    coding = {"system": _PARTICIPANT_SYSTEM, "code": code, "display": code.capitalize()}
    return {"coding": [coding]}


def digest_entity(display: str, sha256: str) -> Resource:
    """Return a Provenance entity that names a source by its digest."""
    what = {"identifier": identifier(f"urn:sha256:{sha256}", URI_SYSTEM), "display": display}
    return {"role": "source", "what": what}


def specimen_query(specimen: Mapping[str, Any]) -> str:
    """Return the search that finds a specimen if the server has it already."""
    if "identifier" in specimen:
        name, known = "identifier", specimen["identifier"][0]
    else:
        name, known = "accession", specimen["accessionIdentifier"]
    token = "|".join(known[part] for part in ("system", "value") if part in known)
    return f"{name}={quote(token, safe=':/|')}"
