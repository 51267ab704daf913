"""DSSE against the specification's own test vector of the encoding, and against forgers."""

import copy
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from service.provenance.canonical import canonical_bytes
from service.provenance.envelope import (
    EnvelopeError,
    pre_authentication_encoding,
    seal,
    unseal,
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEYS = {"k": KEY.public_key()}


def test_the_encoding_is_the_specification_s() -> None:
    # https://github.com/secure-systems-lab/dsse/blob/master/protocol.md, "Test Vectors"
    encoded = pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_what_is_sealed_is_read_back() -> None:
    assert unseal(seal({"a": 1}, KEY, "k"), KEYS) == ({"a": 1}, "k")


def changed(name: str, value: Any) -> dict[str, Any]:
    envelope = copy.deepcopy(seal({"a": 1}, KEY, "k"))
    envelope[name] = value
    return envelope


@pytest.mark.parametrize(
    "envelope",
    [
        None, [], {}, 7, "text",
        changed("payloadType", "text/plain"),
        changed("payload", "e30="),
        changed("payload", "not base64!"),
        changed("payload", None),
        changed("signatures", []),
        changed("signatures", [{"keyid": "k"}]),
        changed("signatures", [{"keyid": "k", "sig": "AAAA"}]),
        changed("signatures", [{"keyid": "other", "sig": "AAAA"}]),
        changed("signatures", [{"keyid": "k", "sig": "AAAA", "more": 1}]),
        changed("more", 1),
    ],
)  # fmt: skip
def test_a_forged_envelope_is_refused(envelope: Any) -> None:
    with pytest.raises(EnvelopeError):
        unseal(envelope, KEYS)


def test_another_key_does_not_verify() -> None:
    other = Ed25519PrivateKey.generate()
    with pytest.raises(EnvelopeError, match="does not fit"):
        unseal(seal({"a": 1}, other, "k"), KEYS)


def test_the_canonical_form_survives_other_writers() -> None:
    assert canonical_bytes({"b": 345.0, "a": [1, 2.5, True, None]}) == canonical_bytes(
        {"a": [1.0, 2.5, True, None], "b": 345}
    )
    assert canonical_bytes({"a": 1}) != canonical_bytes({"a": True})
    assert canonical_bytes({"a": 0.1}) != canonical_bytes({"a": 0.10000000000000002})
