"""DSSE, Dead Simple Signing Envelope, version 1.0, with one Ed25519 signature.

The signature covers the payload's type and its exact bytes, so that nothing has to be brought into
a canonical form before it is checked. Source: the DSSE protocol specification, "signature
definition"; Ed25519: RFC 8032.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"


class EnvelopeError(ValueError):
    """The envelope is malformed, or no known key made its signature; the message says which."""


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """Return what is signed: `DSSEv1`, then type and payload, each with its length before it."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def seal(statement: Mapping[str, Any], key: Ed25519PrivateKey, key_id: str) -> dict[str, Any]:
    """Sign a statement.

    Args:
        statement: JSON-able.
        key: The private key.
        key_id: The identifier by which a verifier finds the public key.

    Returns:
        The envelope, JSON-able.
    """
    payload = orjson.dumps(statement)
    signature = key.sign(pre_authentication_encoding(PAYLOAD_TYPE, payload))
    return {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode("ascii"),
        "signatures": [{"keyid": key_id, "sig": base64.b64encode(signature).decode("ascii")}],
    }


def read_payload(envelope: Any) -> tuple[bytes, str, bytes]:
    """Take an envelope apart without checking its signature.

    Returns:
        Payload, key id and signature.

    Raises:
        EnvelopeError: It is no envelope of ours.
    """
    try:
        if set(envelope) != {"payloadType", "payload", "signatures"}:
            raise EnvelopeError("the envelope has other members than DSSE's three")
        if envelope["payloadType"] != PAYLOAD_TYPE:
            raise EnvelopeError(f"the payload is not {PAYLOAD_TYPE}")
        (signature,) = envelope["signatures"]
        if set(signature) != {"keyid", "sig"}:
            raise EnvelopeError("the signature has other members than keyid and sig")
        payload = base64.b64decode(envelope["payload"], validate=True)
        return payload, str(signature["keyid"]), base64.b64decode(signature["sig"], validate=True)
    except (TypeError, KeyError, ValueError, binascii.Error) as error:
        if isinstance(error, EnvelopeError):
            raise
        raise EnvelopeError("the envelope is malformed") from error


def unseal(
    envelope: Any, public_keys: Mapping[str, Ed25519PublicKey]
) -> tuple[dict[str, Any], str]:
    """Check the signature and return the statement.

    Args:
        envelope: As `seal` returns it, perhaps tampered with.
        public_keys: The keys to trust, by their ids.

    Returns:
        The statement and the id of the key that signed it.

    Raises:
        EnvelopeError: It is malformed, or not signed by one of the keys.
    """
    payload, key_id, signature = read_payload(envelope)
    if key_id not in public_keys:
        raise EnvelopeError(f"the key {key_id[:64]!r} that signed it is none of those to trust")
    try:
        public_keys[key_id].verify(signature, pre_authentication_encoding(PAYLOAD_TYPE, payload))
    except InvalidSignature as error:
        raise EnvelopeError("the signature does not fit the statement") from error
    statement = orjson.loads(payload)
    if not isinstance(statement, dict):
        raise EnvelopeError("the payload is no statement")
    return statement, key_id
