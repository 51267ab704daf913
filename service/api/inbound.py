"""The MLLP listener, open for as long as the service takes requests."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.api.lifecycle import Lifecycle
from service.api.state import ServiceState
from service.errors import ListenerError
from service.lims.mllp_listener import Bounds, MllpListener
from service.lims.order_intake import OrderIntake


@asynccontextmanager
async def listening(state: ServiceState, lifecycle: Lifecycle) -> AsyncIterator[None]:
    """Take order messages over MLLP where the settings say so.

    Raises:
        ListenerError: The address cannot be listened on; the service does not start.
    """
    settings = state.settings
    if settings.mllp_address is None or state.recorder is None:
        yield
        return
    listener = MllpListener(
        OrderIntake(
            state.recorder,
            settings.hl7_parties,
            lifetime_s=settings.idempotency_lifetime_s,
        ),
        Bounds(
            frame_bytes=settings.max_order_bytes,
            frame_s=settings.mllp_frame_timeout_s,
            idle_s=settings.mllp_idle_timeout_s,
            connections=settings.mllp_max_connections,
        ),
    )
    try:
        await listener.open(*settings.mllp_address)
    except ListenerError as error:
        lifecycle.start_up_error = str(error)
        raise
    try:
        yield
    finally:
        await listener.close()
