"""The shapes of whose result it is, what made it, and who signed it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Part(BaseModel):
    """Base: closed and documented by the strings under the fields."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class IdentityAnswer(_Part):
    """The laboratory's identifiers, as they were sent."""

    accession: str | None = Field(examples=["S26-1234"])
    """Accession number."""
    specimen_id: str | None = Field(examples=["S26-1234-A1"])
    """Identifier of the specimen or slide."""
    order_id: str | None = Field(examples=["ORD-778812"])
    """Placer order number."""


class OrderReferenceAnswer(_Part):
    """The order that a result answers."""

    id: str = Field(examples=["5b0c7d5e8a3f4c0e9d1b2a6c4f8e7d10"])
    """Identifier of the order, as `GET /orders/{id}` knows it."""
    placer_number: str = Field(examples=["ORD-778812"])
    """Number that its placer gave it; also `identity.order_id`."""
    filler_number: str | None = Field(examples=["LAB-26-0991"])
    """Number that the laboratory system gave it."""


class SoftwareReference(_Part):
    """Which service made the result."""

    name: Literal["karyon"]
    """Always `karyon`."""
    version: str = Field(examples=["0.1.0"])
    """Its version."""


class EnvelopeSignature(_Part):
    """One signature of an envelope."""

    keyid: str = Field(examples=["NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"])
    """RFC 7638 thumbprint of the public key, under `/.well-known/karyon-keys.json`."""
    sig: str = Field(json_schema_extra={"contentEncoding": "base64"})
    """Ed25519 signature over DSSE's pre-authentication encoding."""


class SignedStatement(_Part):
    """An in-toto Statement v1 in a DSSE envelope; `python -m service verify` checks it."""

    payloadType: Literal["application/vnd.in-toto+json"]  # noqa: N815 - DSSE's own name
    """Always in-toto's."""
    payload: str = Field(json_schema_extra={"contentEncoding": "base64"})
    """The statement as JSON: digests of input, pixels, model, labels and this document;
    parameters, versions, count."""
    signatures: list[EnvelopeSignature] = Field(min_length=1, max_length=1)
    """The service's signature."""


class SigningKey(_Part):
    """A JSON Web Key (RFC 7517) of the kind RFC 8037 defines."""

    kty: Literal["OKP"]
    """Always `OKP`."""
    crv: Literal["Ed25519"]
    """Always `Ed25519`."""
    x: str = Field(examples=["11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"])
    """The public key, base64url."""
    kid: str = Field(examples=["kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"])
    """RFC 7638 thumbprint."""
    alg: Literal["EdDSA"]
    """Always `EdDSA`."""
    use: Literal["sig"]
    """Always `sig`."""
    created_utc: str | None = Field(default=None, examples=["2026-11-22T12:00:00Z"])
    """When this service first had it."""
    active: bool
    """Whether new results are signed with it."""


class SigningKeys(_Part):
    """A JSON Web Key Set."""

    keys: list[SigningKey]
    """The active key first; old ones stay."""
