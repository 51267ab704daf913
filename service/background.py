"""What runs beside the requests for as long as the service is open: purging, delivering."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.api.state import ServiceState
from service.delivery_metrics import DeliveryMetrics
from service.jobs.carrier import Carrier, Patience
from service.lims.adapters import open_adapter
from service.records.retention import keep_purging


@asynccontextmanager
async def retention(state: ServiceState) -> AsyncIterator[None]:
    """Purge what is too old while the service runs."""
    days = (state.settings.retention_days, state.settings.image_retention_days)
    if state.recorder is None:
        yield
        return
    task = asyncio.create_task(
        keep_purging(state.recorder, result_days=days[0], image_days=days[1])
    )
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def delivery(state: ServiceState, observer: DeliveryMetrics) -> AsyncIterator[None]:
    """Carry the outbox to its destinations while the service runs."""
    settings = state.settings
    if state.recorder is None or not settings.deliveries:
        yield
        return
    observer.watch({item.name: item.kind for item in settings.deliveries})
    carrier = Carrier(
        state.recorder,
        {item.name: open_adapter(item, settings.reporting) for item in settings.deliveries},
        Patience(
            timeout_s=settings.delivery_timeout_s,
            first_retry_s=settings.delivery_first_retry_s,
            give_up_days=settings.delivery_give_up_days,
        ),
        observer,
    )
    carrier.start()
    try:
        yield
    finally:
        await carrier.close()
