"""Access tokens of an OpenID Connect issuer: JWTs, checked against the issuer's published keys."""

import http.client
import ipaddress
import json
import threading
import time
import urllib.request
from typing import Any, Final
from urllib.parse import urlsplit

from service.errors import IdentityProviderError, InvalidCredentialError, ProviderError
from service.settings import Settings

# Signatures by a key pair alone: a shared secret (HS256) or `none` would let anybody sign.
_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384",
                      "ES512", "EdDSA")  # fmt: skip
_LEEWAY_S: Final = 30
_FETCH_TIMEOUT_S: Final = 5
_KEYS_KEPT_S: Final = 300
_SILENT_S: Final = 5.0
_GREATEST_TOKEN: Final = 16_384


class TokenVerifier:
    """Checks the tokens of one issuer. Safe to use from several threads."""

    def __init__(self, *, issuer: str, audience: str, jwks_url: str | None, claim: str) -> None:
        """Prepare; nothing is fetched before the first token.

        Args:
            issuer: What `iss` must be.
            audience: What `aud` must be or hold.
            jwks_url: Where the issuer's keys are; None asks its discovery document.
            claim: Name of the claim that holds the scopes, as a list or separated by blanks.

        Raises:
            ProviderError: PyJWT is not installed, or an address is not https.
        """
        try:
            import jwt  # noqa: PLC0415  an extra, needed only where an issuer is configured
        except ImportError as error:
            raise ProviderError(
                "OIDC needs the extra `oidc`: pip install '.[oidc]' in a checkout"
            ) from error
        self._jwt = jwt
        self._issuer = issuer
        self._audience = audience
        self._claim = claim
        self._jwks_url = jwks_url
        self._client: Any = None
        self._fetching = threading.Lock()
        self._failed_s: float | None = None
        for url in (issuer, jwks_url):
            if url is not None:
                _check_url(url)

    @classmethod
    def from_settings(cls, settings: Settings) -> "TokenVerifier | None":
        """Return the verifier that the settings ask for, or None."""
        if settings.oidc_issuer is None or settings.oidc_audience is None:
            return None
        return cls(
            issuer=settings.oidc_issuer,
            audience=settings.oidc_audience,
            jwks_url=settings.oidc_jwks_url,
            claim=settings.oidc_scope_claim,
        )

    def verify(self, token: str) -> tuple[str, frozenset[str]]:
        """Return subject and scopes of a token. Blocking: it may fetch the issuer's keys.

        Raises:
            InvalidCredentialError: It is no token of the issuer for this service, or expired.
            IdentityProviderError: The issuer's keys cannot be fetched.
        """
        if len(token) > _GREATEST_TOKEN:
            raise InvalidCredentialError("The token is too long.")
        try:
            claims = self._decoded(token, self._signing_key(token))
        except self._jwt.ExpiredSignatureError as error:
            raise InvalidCredentialError("The token is expired.") from error
        except self._jwt.PyJWTError as error:
            raise InvalidCredentialError("The token is not valid here.") from error
        held = claims.get(self._claim, ())
        scopes = held.split() if isinstance(held, str) else held
        if not isinstance(scopes, list | tuple):
            scopes = ()
        return str(claims["sub"])[:200], frozenset(str(scope) for scope in scopes)

    def _decoded(self, token: str, key: Any) -> dict[str, Any]:
        try:
            claims: dict[str, Any] = self._jwt.decode(
                token,
                key,
                algorithms=list(_ALGORITHMS),
                audience=self._audience,
                issuer=self._issuer,
                leeway=_LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except TypeError as error:
            # The token names an algorithm that the key it also names is not made for.
            raise self._jwt.InvalidTokenError("the key is of another kind") from error
        return claims

    def _signing_key(self, token: str) -> Any:
        key_id = self._jwt.get_unverified_header(token).get("kid")
        # Tokens of a key that is held never wait for an issuer that hangs.
        if (held := self._held_key(key_id)) is not None:
            return held.key
        # One at a time, and none for a while after a failure: threads that all waited for an
        # issuer that hangs would be missing wherever else the service needs them.
        with self._fetching:
            if self._failed_s is not None and time.monotonic() - self._failed_s < _SILENT_S:
                raise IdentityProviderError("The identity provider did not answer just now.")
            try:
                return self._fetched_key(key_id)
            except IdentityProviderError:
                self._failed_s = time.monotonic()
                raise

    def _held_key(self, key_id: Any) -> Any:
        held = None if self._client is None else self._client.jwk_set_cache.get()
        keys = () if held is None else held.keys
        return next(
            (key for key in keys if key.key_id == key_id and key.public_key_use in ("sig", None)),
            None,
        )

    def _fetched_key(self, key_id: Any) -> Any:
        try:
            if self._client is None:
                # PyJWT keeps the keys for a while, and looks again when a token names a new one.
                self._client = self._jwt.PyJWKClient(
                    self._jwks_url or self._discover(),
                    cache_jwk_set=True,
                    lifespan=_KEYS_KEPT_S,
                    timeout=_FETCH_TIMEOUT_S,
                )
            return self._client.get_signing_key(key_id).key
        except (
            self._jwt.PyJWKClientConnectionError,
            self._jwt.PyJWKSetError,
            OSError,
            http.client.HTTPException,
            ValueError,  # a page in place of JSON; an unknown key is PyJWT's own error
        ) as error:
            raise IdentityProviderError("The identity provider does not answer.") from error

    def _discover(self) -> str:
        url = self._issuer.rstrip("/") + "/.well-known/openid-configuration"
        try:
            # The scheme was checked; the address is the operator's.
            with urllib.request.urlopen(url, timeout=_FETCH_TIMEOUT_S) as answer:  # noqa: S310
                found = json.load(answer)["jwks_uri"]
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            raise IdentityProviderError("The identity provider does not answer.") from error
        _check_url(str(found))
        return str(found)


def _check_url(url: str) -> None:
    """Refuse to fetch keys where somebody on the way could put in others."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        return
    host = parts.hostname or ""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if parts.scheme != "http" or not local:
        raise ProviderError("KARYON_OIDC_ISSUER and KARYON_OIDC_JWKS_URL must be https addresses")
