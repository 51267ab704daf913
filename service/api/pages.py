"""The pages for people: `/` greets, `/docs` explains and lets one try.

The documentation page is one file without any address outside this service: hospital networks have
no way to the CDNs that FastAPI's own page loads its scripts from.
"""

from importlib import resources

from fastapi import APIRouter
from starlette.responses import HTMLResponse, RedirectResponse

router = APIRouter(include_in_schema=False)

# Inline script and style of our own file are all the page needs; nothing from elsewhere may run.
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline';"
        " connect-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Its own requests must tell their origin; other sites learn nothing.
    "Referrer-Policy": "same-origin",
}
_DOCS_PAGE = resources.files("service.api").joinpath("docs.html").read_text("utf-8")


@router.get("/docs")
async def get_docs() -> HTMLResponse:
    """The documentation page; it reads /openapi.json."""
    return HTMLResponse(_DOCS_PAGE, headers=_PAGE_HEADERS)


@router.get("/")
async def get_root() -> RedirectResponse:
    """Whoever opens the service in a browser lands on the page that explains it."""
    return RedirectResponse("docs")
