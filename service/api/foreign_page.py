"""Pages of other sites: refused where they would change something and no credential tells who asks.

A browser lets any page send a form, or nothing at all, to any address, also to 127.0.0.1. With
`auth` off that would roll a model back or file a result for whoever visits the wrong site. Browsers
say where a request comes from in headers that pages cannot set; programs that are no browsers send
neither of them. Source: W3C Fetch Metadata Request Headers, RFC 6454 section 7 (Origin).
"""

from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request

from service.errors import ForeignPageError

_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN: Final = frozenset({"same-origin", "none"})


def refuse_foreign_page(request: Request) -> None:
    """Refuse a request that a page of another origin made a browser send.

    Raises:
        ForeignPageError: It is one, and its method may change something.
    """
    if request.method in _SAFE_METHODS:
        return
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        own = site in _OWN
    else:
        # Browsers leave it out where the connection is neither https nor to this machine.
        origin = request.headers.get("origin")
        own = origin is None or _host_of(origin) == request.headers.get("host", "").lower()
    if not own:
        raise ForeignPageError("A page of another site made the browser send this.")


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None
