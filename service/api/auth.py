"""Who calls, and what they may do: API keys and OIDC tokens, checked before anything is read.

Every route takes one of the `...Caller` parameters below as its first, which guards it, documents
its scope, and tells it who calls; `check_guards` refuses a router with a route that takes
none and is not public.
"""

import asyncio
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import APIRouter, Security
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.security import (
    APIKeyHeader,
    HTTPAuthorizationCredentials,
    HTTPBearer,
    SecurityScopes,
)
from starlette.requests import Request

from service.api.foreign_page import refuse_foreign_page
from service.api.quota import ANONYMOUS_ID
from service.api.state import ServiceState
from service.errors import InsufficientScopeError, MissingCredentialError, NotReadyError
from service.records.keys import find_key, looks_like_key

SCOPES: Final = {
    "segment": "Segment images, and see which models are loaded.",
    "results": "Read recorded results.",
    "review": "Accept, edit or reject results.",
    "orders": "Place, cancel and read orders.",
    "metrics": "Read the metrics.",
    "admin": "Export the audit trail, resend deliveries, and change which model version is active.",
}
"""What a credential may be good for; none of them includes another."""

PUBLIC_PATHS: Final = frozenset(
    {
        "/",
        "/docs",
        "/openapi.json",
        "/.well-known/karyon-keys.json",
        "/health/live",
        "/health/ready",
        "/health/startup",
        "/problems",
        "/problems/{name}",
    }
)
"""Paths that need no credential: probes have none; the rest is documentation and public keys."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request.

    Attributes:
        id: What records and the audit trail call them.
        scopes: What they may do.
    """

    id: str
    scopes: frozenset[str]


ANONYMOUS: Final = Caller(ANONYMOUS_ID, frozenset(SCOPES))
"""Everybody, where `auth` is off."""

_API_KEY = APIKeyHeader(
    name="X-API-Key",
    scheme_name="apiKey",
    description="An API key from `python -m service keys create`.",
    auto_error=False,
)
_BEARER = HTTPBearer(
    scheme_name="bearer",
    description="An API key, or an access token of the configured OIDC issuer.",
    auto_error=False,
)


async def get_caller(
    request: Request,
    required: SecurityScopes,
    api_key: Annotated[str | None, Security(_API_KEY)],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)],
) -> Caller:
    """Return who calls, if they may.

    Raises:
        MissingCredentialError: There is no credential.
        InvalidCredentialError: It is unknown, expired or revoked.
        InsufficientScopeError: It is not good for this.
        IdentityProviderError: The issuer of the token cannot be asked.
        NotReadyError: The service is starting up.
        ForeignPageError: A page of another site made a browser send it, and no logins are asked.
    """
    # Not `StateDependency`: who watches the metrics watches the draining too.
    state: ServiceState | None = getattr(request.state, "service", None)
    if state is None:
        raise NotReadyError("The service is starting up.")
    if state.settings.auth == "off" or state.recorder is None:
        refuse_foreign_page(request)
        return ANONYMOUS
    credential = api_key or (bearer.credentials if bearer else None)
    if not credential:
        raise MissingCredentialError(
            "Send an API key as `X-API-Key: KEY` or `Authorization: Bearer KEY`."
        )
    if looks_like_key(credential) or state.tokens is None:
        key = await state.recorder.read(lambda connection: find_key(connection, credential))
        caller = Caller(f"key:{key.id}", frozenset(key.scopes))
    else:
        subject, scopes = await asyncio.to_thread(state.tokens.verify, credential)
        caller = Caller(f"oidc:{subject}", scopes)
    missing = [scope for scope in required.scopes if scope not in caller.scopes]
    if missing:
        raise InsufficientScopeError(
            f"This needs a credential with the scope {' '.join(missing)}.", scopes=missing
        )
    return caller


SegmentCaller = Annotated[Caller, Security(get_caller, scopes=["segment"])]
ResultsCaller = Annotated[Caller, Security(get_caller, scopes=["results"])]
ReviewCaller = Annotated[Caller, Security(get_caller, scopes=["review"])]
OrdersCaller = Annotated[Caller, Security(get_caller, scopes=["orders"])]
MetricsCaller = Annotated[Caller, Security(get_caller, scopes=["metrics"])]
AdminCaller = Annotated[Caller, Security(get_caller, scopes=["admin"])]


def check_guards(router: APIRouter) -> None:
    """Refuse a router with a route that asks for no credential and is not public.

    Raises:
        RuntimeError: There is one; its author forgot a `...Caller` parameter.
    """
    for route in router.routes:
        path = getattr(route, "path", "")
        if path in PUBLIC_PATHS:
            continue
        if not isinstance(route, APIRoute) or not _asks(route.dependant):
            raise RuntimeError(f"{path} takes no caller and is not among the public paths")


def _asks(dependant: Dependant) -> bool:
    return dependant.call is get_caller or any(_asks(item) for item in dependant.dependencies)
