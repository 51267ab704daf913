"""The process around the application: uvicorn, signals, header bound, the start-up line."""

import asyncio
import ipaddress
import logging
import signal
import socket
import sys
from types import FrameType
from typing import Any

import orjson
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.api.lifecycle import Lifecycle, Phase
from service.api.problem_table import PROBLEMS_BY_NAME
from service.api.problems import PROBLEM_JSON, problem_document
from service.settings import Settings

START_UP_FAILED = 3
DEVICE_LOST = 4
_WILDCARDS = {"0.0.0.0": "localhost", "::": "localhost"}  # noqa: S104  shown, not bound


class _HeadTooLargeError(Exception):
    """A head that arrived whole is over the bound; stops the parser before anything is served."""


class BoundedHeaderProtocol(HttpToolsProtocol):
    """Answers 431 and closes once the headers pass the bound; closes if they do not come.

    uvicorn's httptools protocol has neither bound: a client could fill the memory with one endless
    header, or hold connections for ever that never say what they want. The same bound holds behind
    the head for what is no body: the trailers of a chunked body, and the extensions of its chunks,
    are collected by the parser too.
    """

    max_header_bytes = 32 * 1024

    _head_bytes = 0
    """Bytes of the line and the headers that the parser has told of."""
    _unfinished_bytes = 0
    """Bytes that have come since the parser last told of a body or the end of a message."""
    _progress = False
    _in_head = True
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head = True
        self._head_bytes = 0
        self._unfinished_bytes = 0
        if self._head_timer is None:
            self._await_head()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the request's target."""
        self._head_bytes += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, with its colon, blank and line end."""
        self._head_bytes += len(name) + len(value) + 4
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole; one that is too large must not be served, in however few pieces."""
        if self._head_bytes > self.max_header_bytes:
            raise _HeadTooLargeError
        self._in_head = False
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body, which `BodyBoundMiddleware` bounds."""
        self._progress = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._progress = True
        super().on_message_complete()

    def _await_head(self) -> None:
        # As long as an idle connection is kept between two requests, and from the first byte
        # on without a new start at each byte.
        self._head_timer = self.loop.call_later(self.timeout_keep_alive, self._give_up)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Parse, and count what the parser keeps to itself."""
        self._progress = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        self._unfinished_bytes = 0 if self._progress else self._unfinished_bytes + len(data)
        if self._unfinished_bytes > self.max_header_bytes:
            if self._in_head:
                self._refuse()
            else:
                # The answer may be on its way, or sent: there is no place for another.
                self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request; the parser reports a head that is too large likewise."""
        if self._in_head and self._head_bytes > self.max_header_bytes:
            self._refuse()
        else:
            self._answer("malformed-request", "Bad Request", msg)

    def _refuse(self) -> None:
        problem = PROBLEMS_BY_NAME["headers-too-large"]
        self._answer(problem.name, "Request Header Fields Too Large", problem.remedy)

    def _answer(self, name: str, phrase: str, detail: str) -> None:
        """Answer a problem of this name where no application can, and close."""
        problem = PROBLEMS_BY_NAME[name]
        body = orjson.dumps(problem_document(problem, detail=detail, instance="unknown"))
        head = (
            f"HTTP/1.1 {problem.status} {phrase}\r\n"
            f"content-type: {PROBLEM_JSON}\r\ncontent-length: {len(body)}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()


def bounded_protocol(max_header_bytes: int) -> type[HttpToolsProtocol]:
    """Return uvicorn's protocol with bounds on the request line and headers.

    Args:
        max_header_bytes: Most bytes before the blank line.
    """
    return type(
        "BoundedHeaderProtocol", (BoundedHeaderProtocol,), {"max_header_bytes": max_header_bytes}
    )


class KaryonServer(uvicorn.Server):
    """uvicorn that fails readiness before it drains, and says in one line where it listens."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, settings: Settings) -> None:
        super().__init__(config)
        self._app = app
        self._settings = settings
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def _lifecycle(self) -> Lifecycle:
        lifecycle: Lifecycle = self._app.state.lifecycle
        return lifecycle

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then print the start-up line with the port that was really bound."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started and self._lifecycle.phase is Phase.READY:
            self._announce()

    def _announce(self) -> None:
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        shown = _WILDCARDS.get(host, f"[{host}]" if ":" in host else host)
        url = f"http://{shown}:{port}"
        print(f"Karyon is ready on {url} - try it in a browser: {url}/docs", flush=True)  # noqa: T201  the one line for people

    async def on_tick(self, counter: int) -> bool:
        """Tell uvicorn to end also once the device is lost: another process may find it again."""
        return self._lifecycle.fatal_error is not None or await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Fail readiness at once; stop listening after the drain delay, or on a second signal."""
        first = self._lifecycle.phase is not Phase.DRAINING
        self._lifecycle.phase = Phase.DRAINING
        delay_s = self._settings.drain_delay_s
        if first and delay_s > 0 and self._loop is not None and sig == signal.SIGTERM:
            self._loop.call_soon_threadsafe(
                self._loop.call_later, delay_s, super().handle_exit, sig, frame
            )
        else:
            super().handle_exit(sig, frame)


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """Return uvicorn's configuration.

    Proxy headers are off: behind no trusted proxy they let a client choose its own address.
    `limit_concurrency` is off: the service's own queue answers with a Retry-After instead.
    """
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=bounded_protocol(settings.max_header_bytes),
        ws="none",
        lifespan="on",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        timeout_keep_alive=settings.keep_alive_timeout_s,
        timeout_graceful_shutdown=settings.shutdown_timeout_s,
    )


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def refuse_open_door(settings: Settings) -> str | None:
    """Return why the service must not listen as it is set up, or None.

    Whoever reaches an unguarded port reads every result; it may only happen on purpose.
    """
    mllp = settings.mllp_address
    if mllp is not None and not settings.mllp_allow_anonymous and not _is_local(mllp[0]):
        return (
            f"{mllp[0]} can be reached from other machines, and MLLP has no logins: whoever reaches"
            " the port places and cancels orders. Listen on 127.0.0.1 behind a gateway, or, on a"
            " network that is guarded otherwise, set KARYON_MLLP_ALLOW_ANONYMOUS=true."
        )
    if settings.auth == "required" or settings.allow_anonymous or _is_local(settings.host):
        return None
    return (
        f"{settings.host} can be reached from other machines and nobody would have to log in. Set"
        " KARYON_AUTH=required and make a key with `python -m service keys create`, or, behind a"
        " proxy that asks for logins itself, KARYON_ALLOW_ANONYMOUS=true."
    )


def _exit_quietly(*_: Any) -> None:
    sys.exit(0)


def run_server(app: FastAPI, settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status of the process.

    Args:
        app: From `create_app`.
        settings: The same settings.
    """
    if refusal := refuse_open_door(settings):
        print(f"Karyon cannot start: {refusal}", file=sys.stderr)  # noqa: T201  for people
        return START_UP_FAILED
    lifecycle: Lifecycle = app.state.lifecycle
    # One sentence tells the operator why it does not start; uvicorn's traceback would bury it.
    logging.getLogger("uvicorn.error").addFilter(lambda _: lifecycle.start_up_error is None)
    # uvicorn raises the signal again after its clean shutdown; then the process ends with 0.
    signal.signal(signal.SIGTERM, _exit_quietly)
    server = KaryonServer(server_config(app, settings), app, settings)
    status = 0
    try:
        server.run()
    except KeyboardInterrupt:
        pass
    except SystemExit as stop:
        # uvicorn ends the process itself when it cannot start; so does the second SIGTERM above.
        status = stop.code if isinstance(stop.code, int) else START_UP_FAILED
    if lifecycle.start_up_error is not None:
        print(f"Karyon cannot start: {lifecycle.start_up_error}", file=sys.stderr)  # noqa: T201  for people
        return START_UP_FAILED
    if lifecycle.fatal_error is not None:
        print(f"Karyon ends: {lifecycle.fatal_error}", file=sys.stderr)  # noqa: T201  for people
        return DEVICE_LOST
    return status
