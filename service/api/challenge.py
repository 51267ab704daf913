"""WWW-Authenticate: what a refused caller is told (RFC 6750, section 3)."""

from service import errors

CHALLENGED = frozenset({401, 403})
"""Statuses that come with WWW-Authenticate."""


def challenge(error: Exception) -> str:
    """Return the header's value for an error of a credential."""
    scheme = 'Bearer realm="karyon"'
    if isinstance(error, errors.InvalidCredentialError):
        return f'{scheme}, error="invalid_token"'
    if isinstance(error, errors.InsufficientScopeError):
        return f'{scheme}, error="insufficient_scope", scope="{" ".join(error.scopes)}"'
    return scheme
