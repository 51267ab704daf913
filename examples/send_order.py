"""An example sender of orders to Karyon: HL7 over MLLP or HTTP, or FHIR over HTTP.

    python examples/send_order.py --accession S26-1234 --order ORD-778812
    python examples/send_order.py --accession S26-1234 --order ORD-778812 --fhir
    python examples/send_order.py --order ORD-778812 --cancel --mllp 127.0.0.1:2575

It shows what a sender must do: give each message an id of its own, send it again under that id
until it is acknowledged, and look at what the acknowledgement says. Standard library only.
"""

import argparse
import datetime as dt
import json
import os
import socket
import sys
import time
import urllib.error
import urllib.request
import uuid
from typing import Any

START, END = b"\x0b", b"\x1c\r"
TRIES = 5
ER7 = "x-application/hl7-v2+er7"
FHIR = "application/fhir+json"


def oml_o21(options: argparse.Namespace, message_id: str) -> bytes:
    """Return the order as an HL7 version 2.5.1 message."""
    now = f"{dt.datetime.now(dt.UTC):%Y%m%d%H%M%S}+0000"
    segments = [
        f"MSH|^~\\&|LIS|HOSPITAL|KARYON||{now}||OML^O21^OML_O21|{message_id}|P|2.5.1",
        f"ORC|{'CA' if options.cancel else 'NW'}|{options.order}",
    ]
    if not options.cancel:
        service = "nuclei-analysis^Nuclei in histology^L"
        segments.append(f"OBR|1|{options.order}||{service}{'|' * 14}{options.accession}")
        if options.specimen:
            segments.append(f"SPM|1|{options.specimen}||TISS^Tissue^HL70487")
    return "".join(f"{segment}\r" for segment in segments).encode()


def bundle(options: argparse.Namespace) -> bytes:
    """Return the order as a FHIR R4 transaction."""
    specimen: dict[str, Any] = {"resourceType": "Specimen"}
    if options.accession:
        specimen["accessionIdentifier"] = {"value": options.accession}
    if options.specimen:
        specimen["identifier"] = [{"value": options.specimen}]
    request = {
        "resourceType": "ServiceRequest",
        "status": "revoked" if options.cancel else "active",
        "intent": "order",
        "identifier": [{"type": {"coding": [{"code": "PLAC"}]}, "value": options.order}],
        # FHIR asks for a subject; Karyon does not read it.
        "subject": {"display": "known to the laboratory system"},
        "specimen": [{"reference": "urn:uuid:5f0d7e3c-0f9e-4c55-8c1e-0e5a9a3f6b10"}],
    }
    return json.dumps(
        {
            "resourceType": "Bundle",
            "type": "transaction",
            "entry": [
                {
                    "fullUrl": f"urn:uuid:{uuid.uuid4()}",
                    "resource": request,
                    "request": {"method": "POST", "url": "ServiceRequest"},
                },
                {
                    "fullUrl": "urn:uuid:5f0d7e3c-0f9e-4c55-8c1e-0e5a9a3f6b10",
                    "resource": specimen,
                    "request": {"method": "POST", "url": "Specimen"},
                },
            ],
        }
    ).encode()


def send_by_mllp(address: str, message: bytes) -> tuple[bool, str]:
    """Send a message, and return whether it was accepted, and the acknowledgement."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(START + message + END)
        received = b""
        while END not in received:
            part = connection.recv(65_536)
            if not part:
                raise ConnectionError("hung up without an acknowledgement")
            received += part
    acknowledgement = received.strip(START + END).decode()
    if "|207^" in acknowledgement:
        raise ConnectionError("the service cannot file orders just now")
    return "\rMSA|AA|" in acknowledgement, acknowledgement.replace("\r", "\n")


def send_by_http(url: str, kind: str, body: bytes, message_id: str) -> tuple[bool, str]:
    """POST a message, and return whether it was accepted, and the answer."""
    headers = {"Content-Type": kind, "Idempotency-Key": message_id}
    if key := os.environ.get("KARYON_KEY"):
        headers["X-API-Key"] = key
    request = urllib.request.Request(f"{url}/orders", body, headers)  # noqa: S310  the user's own
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  the user's own
            return True, answer.read().decode()
    except urllib.error.HTTPError as error:
        said = f"{error.code} {error.read().decode()}"
        if error.code in (408, 429, 503) or "idempotency-key-in-flight" in said:
            raise ConnectionError(said) from error
        return False, said


def main() -> int:
    """Send one order; the exit status tells whether it was accepted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--order", required=True, help="the placer's number of the order")
    parser.add_argument("--accession", help="accession number of the case")
    parser.add_argument("--specimen", help="number of the specimen")
    parser.add_argument("--cancel", action="store_true", help="cancel the order")
    parser.add_argument("--fhir", action="store_true", help="as a FHIR Bundle instead of HL7")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="address of Karyon")
    parser.add_argument("--mllp", help="host:port of Karyon's MLLP listener, instead of --url")
    options = parser.parse_args()
    if not options.cancel and not options.accession:
        parser.error("an order needs --accession")
    message_id = uuid.uuid4().hex[:20]
    # Made once: a repetition is the same message, byte for byte.
    message = bundle(options) if options.fhir else oml_o21(options, message_id)
    for attempt in range(TRIES):
        try:
            if options.mllp:
                accepted, answer = send_by_mllp(options.mllp, message)
            else:
                kind = FHIR if options.fhir else ER7
                accepted, answer = send_by_http(options.url, kind, message, message_id)
        except OSError as error:
            print(f"not sent: {error}", file=sys.stderr)
            time.sleep(2**attempt)
        else:
            print(answer)
            return 0 if accepted else 1
    return 2


if __name__ == "__main__":
    sys.exit(main())
