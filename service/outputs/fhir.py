"""A result as a FHIR R4 Bundle: DiagnosticReport, Observations, Device, Provenance, Specimen.

    DiagnosticReport ──result──► Observation (count, its interval), (density), (area fraction)
      │ specimen                    │ device
      ▼                             ▼
    Specimen (accession)          Device (software and model)  ◄──agent── Provenance ──target──► all
      basedOn: the order, by its identifier

Resources are plain dicts: pydantic models of the whole standard would be a heavy dependency for a
dozen fields, and the tests validate every bundle with them anyhow. No subject is set: this service
knows no patient; the receiver has one by the specimen or the order.
"""

import base64
import uuid
from typing import Literal

import orjson

from service.outputs.codes import (
    LOCAL_CODES,
    NO_SYSTEMS,
    Code,
    IdentifierSystems,
    ReportCodes,
)
from service.outputs.fhir_datatypes import (
    URI_SYSTEM,
    Resource,
    concept,
    digest_entity,
    identifier,
    participant,
    quantity,
    reference,
    specimen_query,
    text,
)
from service.outputs.report import ReportedResult

BundleType = Literal["collection", "transaction"]

# An RFC 4122 name space of our own, so that one result always gives the same resource ids and a
# second delivery updates the first instead of adding to it.
_NAME_SPACE = uuid.UUID("6a1d2c64-3f0e-5d6b-9b55-0f3a7c1e8d21")
_AI_ASSERTED = {
    "security": [
        {
            "system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue",
            "code": "AIAST",
            "display": "Artificial Intelligence asserted",
        }
    ]
}
_PATHOLOGY = {
    "coding": [
        {
            "system": "http://terminology.hl7.org/CodeSystem/v2-0074",
            "code": "SP",
            "display": "Surgical Pathology",
        }
    ]
}


def build_bundle(
    result: ReportedResult,
    codes: ReportCodes = LOCAL_CODES,
    systems: IdentifierSystems = NO_SYSTEMS,
    *,
    bundle_type: BundleType = "collection",
) -> bytes:
    """Build the bundle.

    Args:
        result: The result, in any status.
        codes: The laboratory's codes.
        systems: Namespaces of the laboratory's identifiers.
        bundle_type: `collection` to read; `transaction` to POST to a FHIR server, whose entries
            update by id, so that sending it twice changes nothing. The specimen is created only
            where the server has none of that identifier.

    Returns:
        JSON in UTF-8; the same result gives the same bytes.
    """
    builder = _Builder(result, codes, systems)
    return orjson.dumps(
        {
            "resourceType": "Bundle",
            "type": bundle_type,
            "timestamp": result.changed_utc,
            "entry": [
                builder.entry(resource, transaction=bundle_type == "transaction")
                for resource in builder.resources()
            ],
        }
    )


class _Builder:
    """Builds the resources of one result, which refer to each other by their UUIDs."""

    def __init__(
        self, result: ReportedResult, codes: ReportCodes, systems: IdentifierSystems
    ) -> None:
        self._result = result
        self._codes = codes
        self._systems = systems

    def _id(self, what: str) -> str:
        return str(uuid.uuid5(_NAME_SPACE, f"{self._result.id}/{what}"))

    @property
    def _device_id(self) -> str:
        result = self._result
        name = f"device/{result.software_version}/{result.model_digest}"
        return str(uuid.uuid5(_NAME_SPACE, name))

    @property
    def _specimen_id(self) -> str:
        identity = self._result.identity
        return str(uuid.uuid5(_NAME_SPACE, f"specimen/{identity.specimen_id}/{identity.accession}"))

    def entry(self, resource: Resource, *, transaction: bool) -> Resource:
        """Return the bundle entry of a resource."""
        entry: Resource = {"fullUrl": f"urn:uuid:{resource['id']}", "resource": resource}
        if not transaction:
            return entry
        kind = resource["resourceType"]
        if kind == "Specimen":
            entry["request"] = {
                "method": "POST",
                "url": kind,
                "ifNoneExist": specimen_query(resource),
            }
        else:
            entry["request"] = {"method": "PUT", "url": f"{kind}/{resource['id']}"}
        return entry

    def resources(self) -> list[Resource]:
        """Return all resources, the report first."""
        observations = self._observations()
        resources = [self._report(observations), *observations, self._device()]
        if self._has_specimen:
            resources.append(self._specimen())
        resources.append(self._provenance(observations))
        return resources

    @property
    def _has_specimen(self) -> bool:
        identity = self._result.identity
        return identity.specimen_id is not None or identity.accession is not None

    def _context(self) -> Resource:
        """Return what the report and its observations have in common."""
        result = self._result
        context: Resource = {
            "meta": _AI_ASSERTED,
            "status": result.status,
            "category": [_PATHOLOGY],
            "issued": result.changed_utc,
        }
        numbers = (result.identity.order_id, result.filler_number)
        based_on = [
            {"type": "ServiceRequest", "identifier": identifier(number, self._systems.order)}
            for number in numbers
            if number is not None
        ]
        return {**context, "basedOn": based_on} if based_on else context

    def _report(self, observations: list[Resource]) -> Resource:
        result = self._result
        report: Resource = {
            "resourceType": "DiagnosticReport",
            "id": self._id("report"),
            "identifier": [{"system": URI_SYSTEM, "value": f"urn:uuid:{uuid.UUID(result.id)}"}],
            **self._context(),
            "code": concept(self._codes.report),
            "result": [reference("Observation", item["id"]) for item in observations],
            "conclusion": text(" ".join(result.comments)),
        }
        if result.review is not None:
            report["resultsInterpreter"] = [
                {"type": "Practitioner", "identifier": {"value": text(result.review.reviewer)}}
            ]
        if self._has_specimen:
            report["specimen"] = [reference("Specimen", self._specimen_id)]
        return report

    def _observations(self) -> list[Resource]:
        result, codes = self._result, self._codes
        count = self._observation(
            "count", codes.count, quantity(result.count, "nuclei", "{nuclei}")
        )
        interval = result.count_interval
        if interval is not None and result.status != "cancelled":
            count["component"] = [
                {
                    # A Range of its own and no referenceRange: that would say which counts are
                    # healthy.
                    "code": concept(codes.count_interval),
                    "valueRange": {
                        "low": quantity(interval.lower, "nuclei", "{nuclei}"),
                        "high": quantity(interval.upper, "nuclei", "{nuclei}"),
                    },
                }
            ]
            count["note"].append({"text": f"{interval.level:.0%} interval: {interval.method}"})
        observations = [count]
        if result.density_per_mm2 is not None:
            value = quantity(round(result.density_per_mm2, 2), "nuclei per square mm", "/mm2")
            observations.append(self._observation("density", codes.density, value))
        share = quantity(round(100 * result.foreground_fraction, 2), "%", "%")
        observations.append(self._observation("area-fraction", codes.area_fraction, share))
        return observations

    def _observation(self, name: str, code: Code, value: Resource) -> Resource:
        result = self._result
        observation: Resource = {
            "resourceType": "Observation",
            "id": self._id(name),
            "identifier": [{"system": URI_SYSTEM, "value": f"urn:uuid:{self._id(name)}"}],
            **self._context(),
            "code": concept(code),
            "method": {"text": f"{result.model_name}:{result.model_version}"},
            "device": reference("Device", self._device_id),
            "note": [{"text": text(comment)} for comment in result.comments],
        }
        if result.status == "cancelled":
            observation["dataAbsentReason"] = {
                "coding": [
                    {
                        "system": "http://terminology.hl7.org/CodeSystem/data-absent-reason",
                        "code": "error",
                        "display": "Error",
                    }
                ]
            }
        else:
            observation["valueQuantity"] = value
        if self._has_specimen:
            observation["specimen"] = reference("Specimen", self._specimen_id)
        return observation

    def _device(self) -> Resource:
        result = self._result
        versions = {
            "software": result.software_version,
            "model": f"{result.model_name}:{result.model_version}",
            "model SHA-256": result.model_digest,
        }
        return {
            "resourceType": "Device",
            "id": self._device_id,
            "deviceName": [{"name": result.software_name, "type": "user-friendly-name"}],
            "version": [
                {"type": {"text": kind}, "value": value} for kind, value in versions.items()
            ],
            "type": {"text": "Image analysis software"},
        }

    def _specimen(self) -> Resource:
        identity = self._result.identity
        specimen: Resource = {"resourceType": "Specimen", "id": self._specimen_id}
        if identity.specimen_id is not None:
            specimen["identifier"] = [identifier(identity.specimen_id, self._systems.specimen)]
        if identity.accession is not None:
            specimen["accessionIdentifier"] = identifier(
                identity.accession, self._systems.accession
            )
        return specimen

    def _provenance(self, observations: list[Resource]) -> Resource:
        result = self._result
        device = reference("Device", self._device_id)
        agents: list[Resource] = [{"type": participant("assembler"), "who": device}]
        if result.review is not None:
            reviewer = {"identifier": {"value": text(result.review.reviewer)}}
            agents.append({"type": participant("verifier"), "who": reviewer})
        provenance: Resource = {
            "resourceType": "Provenance",
            # One for each state of the result: what was said before stays readable.
            "id": self._id(f"provenance/{result.status}/{result.changed_utc}"),
            "target": [
                reference("DiagnosticReport", self._id("report")),
                *(reference("Observation", item["id"]) for item in observations),
            ],
            "recorded": result.changed_utc,
            "agent": agents,
            "entity": [
                digest_entity("Image file", result.input_sha256),
                digest_entity("Decoded pixels", result.pixel_sha256),
            ],
        }
        if result.review is not None and result.review.reason is not None:
            provenance["reason"] = [{"text": text(result.review.reason)}]
        if result.attestation is not None:
            provenance["signature"] = [
                {
                    "type": [
                        {
                            "system": "urn:iso-astm:E1762-95:2013",
                            "code": "1.2.840.10065.1.12.1.5",
                            "display": "Verification Signature",
                        }
                    ],
                    "when": result.created_utc,
                    "who": device,
                    "targetFormat": "application/vnd.in-toto+json",
                    "sigFormat": "application/vnd.dsse+json",
                    "data": base64.b64encode(result.attestation.encode()).decode("ascii"),
                }
            ]
        return provenance
