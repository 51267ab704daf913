"""An example receiver of Karyon's deliveries: webhook and FHIR over HTTP, HL7 over MLLP.

    python examples/receiver.py --port 9000 --mllp-port 9001 --secret whsec_...

It shows the three things that a receiver must do: check the signature of a webhook, file each key
once and still say yes to a resend, and acknowledge only what it has filed. It files in memory; a
real one files in its database, in the same transaction as the key. Standard library only. For
SENAITE see senaite.py beside it.
"""

import argparse
import base64
import contextlib
import hashlib
import hmac
import json
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOLERANCE_S = 300
START, END = b"\x0b", b"\x1c\r"


class Inbox:
    """What was received, by key; a key that is there already is not filed again."""

    def __init__(self) -> None:
        self.filed: dict[str, bytes] = {}
        self.arrivals: list[str] = []
        self._lock = threading.Lock()

    def take(self, kind: str, key: str, body: bytes) -> int:
        """File a message and return an HTTP status; 503 would make Karyon try again later."""
        with self._lock:
            known = f"{kind}:{key}"
            self.arrivals.append(known)
            if known not in self.filed:
                self.filed[known] = body
                print(f"{kind:8} {key} filed, {len(body)} bytes", flush=True)
            else:
                print(f"{kind:8} {key} again, was filed before", flush=True)
        return 200


def signature_is_good(secret: str, headers: Any, body: bytes) -> bool:
    """Check a webhook as the Standard Webhooks specification says."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    timestamp = headers.get("webhook-timestamp", "")
    if not timestamp.isdecimal() or abs(time.time() - int(timestamp)) > TOLERANCE_S:
        return False
    signed = f"{headers.get('webhook-id', '')}.{timestamp}.".encode() + body
    expected = "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    given = headers.get("webhook-signature", "").split(" ")
    return any(hmac.compare_digest(expected, one) for one in given)


def bundle_key(bundle: dict[str, Any]) -> str:
    """Return the id of the Provenance: one for each state of a result.

    A FHIR server needs no such key: its entries are PUT by id, so a resend changes nothing.
    """
    resources = (entry["resource"] for entry in bundle["entry"])
    return next(item["id"] for item in resources if item["resourceType"] == "Provenance")


def http_server(port: int, inbox: Inbox, secret: str | None) -> ThreadingHTTPServer:
    """Return a server of `/webhook` and `/fhir` on loopback; port 0 takes a free one."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if self.path == "/fhir":
                status = inbox.take("fhir", bundle_key(json.loads(body)), body)
            elif secret is not None and not signature_is_good(secret, self.headers, body):
                status = 401
            else:
                status = inbox.take("webhook", self.headers.get("webhook-id", ""), body)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Keep quiet; the inbox tells."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def acknowledge(message: bytes, code: str) -> bytes:
    """Return the ACK of a message, in MLLP's frame."""
    header = message.split(b"\r", 1)[0].split(b"|")
    ack = b"\r".join(
        [
            b"|".join([*header[:2], *header[4:6], *header[2:4], header[6], b"", b"ACK", header[9]])
            + b"|P|2.5.1",
            b"MSA|" + code.encode() + b"|" + header[9],
        ]
    )
    return START + ack + b"\r" + END


def mllp_server(port: int, inbox: Inbox) -> socketserver.ThreadingTCPServer:
    """Return an MLLP listener on loopback; port 0 takes a free one."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            received = b""
            while part := self.request.recv(65_536):
                received += part
                while END in received:
                    framed, received = received.split(END, 1)
                    message = framed.lstrip(START)
                    control_id = message.split(b"|")[9].decode()
                    good = inbox.take("mllp", control_id, message) < 300
                    self.request.sendall(acknowledge(message, "AA" if good else "AE"))

    server = socketserver.ThreadingTCPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    return server


def main() -> None:
    """Receive until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--mllp-port", type=int, default=9001)
    parser.add_argument("--secret", help="whsec_... of the webhook; without it nothing is checked")
    options = parser.parse_args()
    inbox = Inbox()
    listener = mllp_server(options.mllp_port, inbox)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{options.port}/webhook and /fhir; MLLP on {options.mllp_port}")
    with contextlib.suppress(KeyboardInterrupt):
        http_server(options.port, inbox, options.secret).serve_forever()


if __name__ == "__main__":
    main()
