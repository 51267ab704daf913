"""Pure ASGI middleware: request id, access log, error boundary, body bound, HEAD.

```
 client ──► RequestId ──► AccessLog ──► ErrorBoundary ──► BodyBound ──► routes
            echo or make   one line      a stray exception  Content-Length and
            X-Request-ID   and metrics   becomes a plain    streamed bytes counted
                           a request     500 problem
```
None of these knows of the API: how an exception is answered is handed in (`respond`), and so is who
counts (`observer`). `BaseHTTPMiddleware` is avoided: it costs several times the throughput and
hides disconnects from the routes.
"""

import re
import time
import uuid
from collections.abc import Callable
from typing import Protocol

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BodyTooLargeError

REQUEST_ID_HEADER = "X-Request-ID"
CLIENT_CLOSED_REQUEST = 499
_ACCEPTABLE_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_QUIET_ROUTES = ("/health/live", "/health/ready", "/health/startup", "/metrics")

Respond = Callable[[Request, Exception], Response]
_logger = structlog.get_logger("karyon.http")


class RequestObserver(Protocol):
    """Who counts requests; `service.telemetry.Metrics` does."""

    def request_started(self) -> None:
        """A request came in."""

    def request_finished(self, method: str, route: str, status: int, duration_s: float) -> None:
        """A request was answered."""


def route_template(scope: Scope) -> str:
    """Return the template of the route that answered, such as `/models/{name}`.

    Never the path itself: a path may hold anything a caller typed, and it would make a label of
    unbounded cardinality.
    """
    return getattr(scope.get("route"), "path", None) or "unmatched"


class RequestIdMiddleware:
    """Echo the caller's `X-Request-ID`, or make one; it is in every answer, problem and log line.

    An id that is not 1..128 letters, digits, dots, dashes or underscores is replaced: it would be
    copied into logs and headers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        offered = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        request_id = offered if _ACCEPTABLE_REQUEST_ID.fullmatch(offered) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self.app(scope, receive, send_with_id)


class AccessLogMiddleware:
    """Log one line and count one request; the route's template only, never path or query."""

    def __init__(self, app: ASGIApp, observer: RequestObserver) -> None:
        self.app = app
        self.observer = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # A cancelled request (the server is shutting down) sends no status; it is the closed one.
        status = CLIENT_CLOSED_REQUEST
        received_bytes = sent_bytes = 0

        async def counting_receive() -> Message:
            nonlocal received_bytes
            message = await receive()
            received_bytes += len(message.get("body", b""))
            return message

        async def counting_send(message: Message) -> None:
            nonlocal status, sent_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
            sent_bytes += len(message.get("body", b""))
            await send(message)

        start_s = time.perf_counter()
        self.observer.request_started()
        try:
            await self.app(scope, counting_receive, counting_send)
        finally:
            duration_s = time.perf_counter() - start_s
            route = route_template(scope)
            self.observer.request_finished(scope["method"], route, status, duration_s)
            quiet = route in _QUIET_ROUTES and status < 400
            log = _logger.debug if quiet else _logger.info
            log(
                "request",
                method=scope["method"][:16],
                route=route,
                status=status,
                duration_ms=round(duration_s * 1000.0, 1),
                received_bytes=received_bytes,
                sent_bytes=sent_bytes,
            )


class ErrorBoundaryMiddleware:
    """Log an exception that nothing else handled, and answer it without its message.

    Starlette's own boundary stands outside all middleware, so its 500 would carry no request id and
    no access-log line.
    """

    def __init__(self, app: ASGIApp, respond: Respond) -> None:
        self.app = app
        self.respond = respond

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watching_send(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watching_send)
        except Exception as error:
            _logger.exception("unhandled", route=route_template(scope))
            if started:
                # The answer is half sent: only a broken connection can tell the client so.
                raise
            response = self.respond(Request(scope, receive), error)
            await response(scope, receive, send)


class BodyBoundMiddleware:
    """Refuse a body over the bound: by its Content-Length unread, else when the bytes pass it."""

    def __init__(self, app: ASGIApp, max_body_bytes: int, respond: Respond) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self.respond = respond

    def _error(self) -> BodyTooLargeError:
        return BodyTooLargeError(
            f"The body is larger than the {self.max_body_bytes} bytes that this service accepts."
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > self.max_body_bytes:
            response = self.respond(Request(scope, receive), self._error())
            await response(scope, receive, send)
            return
        received_bytes = 0

        async def bounded_receive() -> Message:
            nonlocal received_bytes
            message = await receive()
            received_bytes += len(message.get("body", b""))
            if received_bytes > self.max_body_bytes:
                # Raised where the route reads the body; the table of problems answers it.
                raise self._error()
            return message

        await self.app(scope, bounded_receive, send)


class HeadMiddleware:
    """Answer HEAD as GET is answered, without the body (RFC 9110, sections 9.1 and 9.3.2).

    FastAPI's routes know GET alone, and load balancers ask for their health by HEAD.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return
        # A copy: the server goes by the method in its own scope when it frames the answer.
        asked = {**scope, "method": "GET"}

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        try:
            await self.app(asked, receive, send_head)
        finally:
            if "route" in asked:
                scope["route"] = asked["route"]  # for the access log
