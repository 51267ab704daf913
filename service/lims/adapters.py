"""One adapter for each kind of destination: builds the message, makes one attempt."""

import base64
import hashlib
import hmac
import time
from collections.abc import Sequence
from typing import Final, Protocol

from service.lims.destinations import (
    FhirDestination,
    MllpDestination,
    SenaiteDestination,
    WebhookDestination,
    secret_bytes,
)
from service.lims.http_exchange import post
from service.lims.messages import Message, event_of, report_of
from service.lims.mllp import exchange
from service.lims.outcome import Outcome
from service.lims.senaite import SenaiteAdapter
from service.outputs.codes import Reporting
from service.outputs.fhir import build_bundle
from service.outputs.hl7 import build_oru_r01, control_id
from service.records.results import RecordedResult, ResultVersion

FHIR_JSON: Final = "application/fhir+json"


class Adapter(Protocol):
    """Speaks to one destination."""

    def message(self, key: str, result: RecordedResult, version: ResultVersion) -> Message:
        """Build what is sent; the same state gives the same bytes. Blocking.

        Raises:
            ValueError: The filed document is none that this version of the program knows.
        """

    async def send(self, message: Message) -> Outcome:
        """Make one attempt; the caller bounds the time, and takes what connections raise."""


def sign_webhook(secrets: Sequence[bytes], key: str, timestamp_s: int, body: bytes) -> str:
    """Return `webhook-signature`: one `v1` signature for each secret.

    Source: Standard Webhooks, "Signature scheme".
    """
    signed = f"{key}.{timestamp_s}.".encode() + body
    digests = (hmac.new(secret, signed, hashlib.sha256).digest() for secret in secrets)
    return " ".join(f"v1,{base64.b64encode(digest).decode('ascii')}" for digest in digests)


class WebhookAdapter:
    """Standard Webhooks."""

    def __init__(self, destination: WebhookDestination) -> None:
        self._destination = destination
        self._secrets = [secret_bytes(secret) for secret in destination.secrets]

    def message(self, key: str, result: RecordedResult, version: ResultVersion) -> Message:
        """Build the event."""
        return Message(key, "", event_of(result, version))

    async def send(self, message: Message) -> Outcome:
        """POST the event, signed with every secret."""
        timestamp_s = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "webhook-id": message.key,
            "webhook-timestamp": str(timestamp_s),
            "webhook-signature": sign_webhook(
                self._secrets, message.key, timestamp_s, message.body
            ),
        }
        destination = self._destination
        reply = await post(
            destination.url, headers, message.body, allow_private=destination.allow_private
        )
        return reply.outcome()


class FhirAdapter:
    """Transactions to a FHIR server, whose entries update by id: twice changes nothing."""

    def __init__(self, destination: FhirDestination, reporting: Reporting) -> None:
        self._destination = destination
        self._reporting = reporting

    def message(self, key: str, result: RecordedResult, version: ResultVersion) -> Message:
        """Build the transaction bundle."""
        bundle = build_bundle(
            report_of(result, version),
            self._reporting.codes,
            self._reporting.systems,
            bundle_type="transaction",
        )
        return Message(key, "", bundle)

    async def send(self, message: Message) -> Outcome:
        """POST the transaction."""
        destination = self._destination
        headers = {"Content-Type": FHIR_JSON, "Accept": FHIR_JSON}
        if destination.authorization is not None:
            headers["Authorization"] = destination.authorization.get_secret_value()
        reply = await post(
            destination.url, headers, message.body, allow_private=destination.allow_private
        )
        return reply.outcome()


class MllpAdapter:
    """ORU^R01 over MLLP; MSH-10 is the same for the same state of a result."""

    def __init__(self, destination: MllpDestination, reporting: Reporting) -> None:
        self._destination = destination
        self._reporting = reporting

    def message(self, key: str, result: RecordedResult, version: ResultVersion) -> Message:
        """Build the message."""
        report = report_of(result, version)
        body = build_oru_r01(report, self._reporting.codes, self._reporting.parties)
        return Message(key, control_id(report), body)

    async def send(self, message: Message) -> Outcome:
        """Send the message and read its acknowledgement."""
        destination = self._destination
        return await exchange(
            message.body,
            message.control_id,
            host=destination.host,
            port=destination.port,
            tls=destination.tls,
            allow_private=destination.allow_private,
        )


def open_adapter(
    destination: WebhookDestination | FhirDestination | MllpDestination | SenaiteDestination,
    reporting: Reporting,
) -> Adapter:
    """Return the adapter of a destination."""
    match destination:
        case WebhookDestination():
            return WebhookAdapter(destination)
        case FhirDestination():
            return FhirAdapter(destination, reporting)
        case MllpDestination():
            return MllpAdapter(destination, reporting)
        case SenaiteDestination():
            return SenaiteAdapter(destination)
