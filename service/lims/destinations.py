"""Destinations as the settings name them (`KARYON_DELIVERIES`)."""

import base64
import binascii
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

_MARK: Final = "whsec_"
_SHORTEST_SECRET_BYTES: Final = 24
_LONGEST_SECRET_BYTES: Final = 64
_KEYWORD: Final = r"^[A-Za-z][A-Za-z0-9_-]{0,63}$"


def secret_bytes(secret: SecretStr) -> bytes:
    """Return the key of a Standard Webhooks secret.

    Raises:
        ValueError: It is not `whsec_` and 24 to 64 bytes in base64; the message does not show it.
    """
    text = secret.get_secret_value()
    try:
        key = base64.b64decode(text.removeprefix(_MARK), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.startswith(_MARK) or not (
        _SHORTEST_SECRET_BYTES <= len(key) <= _LONGEST_SECRET_BYTES
    ):
        raise ValueError("a webhook secret is whsec_ followed by 24 to 64 bytes in base64")
    return key


def _checked_secret(secret: SecretStr) -> SecretStr:
    secret_bytes(secret)
    return secret


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must begin with http:// or https:// and name a host")
    if parts.username is not None or parts.fragment:
        raise ValueError("must hold no user name, password or fragment")
    if not url.isascii() or any(character <= " " for character in url):
        raise ValueError("must be ASCII without blanks")
    _ = parts.port  # raises ValueError where it is no port
    return url


def _checked_site(url: str) -> str:
    if urlsplit(url).query:
        raise ValueError("must hold no query")
    return url.rstrip("/")


HttpUrl = Annotated[str, AfterValidator(_checked_url)]


class _Destination(BaseModel):
    """Base: closed and frozen."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        # What is wrong may be a secret.
        hide_input_in_errors=True,
    )

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    """What records and the audit trail call it; part of the key of each delivery, so keep it."""
    allow_private: bool = False
    """Whether it may have a private, loopback or link-local address."""


class WebhookDestination(_Destination):
    """An HTTP endpoint that takes signed events (Standard Webhooks)."""

    kind: Literal["webhook"]
    """Always `webhook`."""
    url: HttpUrl
    """Where events are POSTed."""
    secrets: tuple[Annotated[SecretStr, AfterValidator(_checked_secret)], ...] = Field(min_length=1)
    """`whsec_...`; each signs, so that a new one can be put before the old one is taken away."""


class FhirDestination(_Destination):
    """A FHIR R4 server."""

    kind: Literal["fhir"]
    """Always `fhir`."""
    url: HttpUrl
    """Base URL, to which transactions are POSTed."""
    authorization: SecretStr | None = None
    """The whole Authorization header, such as `Bearer ...`."""


class MllpDestination(_Destination):
    """An HL7 version 2 listener."""

    kind: Literal["mllp"]
    """Always `mllp`."""
    host: str = Field(min_length=1, max_length=253)
    """Host name or address."""
    port: int = Field(ge=1, le=65535)
    """TCP port."""
    tls: bool = False
    """Whether it speaks TLS."""


class SenaiteDestination(_Destination):
    """A SENAITE LIMS, spoken to by its JSON API (senaite.jsonapi)."""

    kind: Literal["senaite"]
    """Always `senaite`."""
    url: Annotated[HttpUrl, AfterValidator(_checked_site)]
    """Address of the SENAITE site, such as `https://lims.example/senaite`, without `@@API`."""
    user: str = Field(pattern=r"^[!-9;-~]{1,128}$")
    """User name: ASCII without blanks and colons."""
    password: SecretStr
    """Password of the user."""
    count_keyword: str = Field(pattern=_KEYWORD)
    """Keyword of the analysis that takes the number of nuclei."""
    density_keyword: str | None = Field(default=None, pattern=_KEYWORD)
    """Keyword of the analysis that takes nuclei a square millimetre; unset sends no density."""
    sample_from: Literal["accession", "specimen_id", "order_id"] = "accession"
    """Which identifier of a result names the sample."""
    sample_by: Literal["client_sample_id", "sample_id"] = "client_sample_id"
    """What it is in SENAITE: the Client Sample ID, or SENAITE's own sample ID."""


Destination = Annotated[
    WebhookDestination | FhirDestination | MllpDestination | SenaiteDestination,
    Field(discriminator="kind"),
]
