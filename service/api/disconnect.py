"""Notice at once that a client went away, not only when its turn has come."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.requests import Request

from service.inference.ticket import Ticket


async def _until_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


@asynccontextmanager
async def disconnect_watch(
    request: Request, ticket: Ticket
) -> AsyncGenerator[asyncio.Future[None]]:
    """Watch the connection during the `async with` body; the request's body must be read by then.

    Args:
        request: The request.
        ticket: Given up when the client goes.

    Yields:
        Done when the client has gone.
    """
    watch = asyncio.create_task(_until_disconnect(request))
    watch.add_done_callback(lambda task: None if task.cancelled() else ticket.give_up())
    try:
        yield watch
    finally:
        watch.cancel()
