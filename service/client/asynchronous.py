"""The client for asyncio; `service.client.synchronous` is the same without `await`."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self, Unpack

import httpx2 as httpx
import numpy as np
from numpy.typing import NDArray

from service.api.record_answers import RecordedResultAnswer, ResultHistory, ResultList
from service.api.schemas import SegmentationAnswer
from service.client.attempts import Attempts, checked_limits
from service.client.calls import (
    GRACE_S,
    Call,
    Decision,
    Format,
    Representation,
    ResultFilter,
    SegmentOptions,
    client_headers,
    list_call,
    new_key,
    read_answer,
    read_representation,
    result_path,
    review_call,
    segment_call,
    to_address,
    unreadable,
)
from service.client.images import ImageSource


class AsyncClient:
    """`Client` for asyncio; use it as an asynchronous context manager, or close it.

    Arguments, errors and repetitions are `service.client.synchronous.Client`'s. Calls may run
    side by side in one event loop. An array or a file is read and packed in a thread.
    """

    def __init__(
        self,
        address: str,
        *,
        api_key: str | None = None,
        deadline_s: float = 60.0,
        attempts: int = 5,
        keeps_records: bool = True,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        checked_limits(attempts=attempts, deadline_s=deadline_s)
        self._deadline_s = deadline_s
        self._attempts = attempts
        self._keeps_records = keeps_records
        self._http = httpx.AsyncClient(
            base_url=to_address(address), headers=client_headers(api_key), transport=transport
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def segment(
        self, image: ImageSource, **options: Unpack[SegmentOptions]
    ) -> SegmentationAnswer:
        """Segment an image: count, interval, areas, quality flags.

        Args:
            image: A path, a file's bytes, or uint8 pixels, (H, W, 3) RGB or (H, W) grey.
            **options: The parameters of `POST /segment`.
        """
        call = await asyncio.to_thread(
            segment_call, image, "json", options, idempotency_key=self._key()
        )
        return read_answer(SegmentationAnswer, await self._send(call))

    async def segment_as(
        self, image: ImageSource, output_format: Format, **options: Unpack[SegmentOptions]
    ) -> Representation:
        """Segment an image and return the answer as a file: a mask, GeoJSON, CSV, FHIR, HL7, COCO.

        Args:
            image: As for `segment`.
            output_format: `png` (`mask` says which), `geojson`, `csv`, `fhir`, `hl7` or `coco`.
            **options: The parameters of `POST /segment`.
        """
        call = await asyncio.to_thread(
            segment_call, image, output_format, options, idempotency_key=self._key()
        )
        return read_representation(await self._send(call))

    async def results(
        self, *, limit: int = 20, cursor: str | None = None, **wanted: Unpack[ResultFilter]
    ) -> ResultList:
        """Return a page of recorded results, the newest first; `next_cursor` gives the next."""
        return read_answer(
            ResultList, await self._send(list_call(wanted, limit=limit, cursor=cursor))
        )

    async def all_results(
        self, **wanted: Unpack[ResultFilter]
    ) -> AsyncIterator[RecordedResultAnswer]:
        """Yield all recorded results, the newest first, page after page."""
        cursor: str | None = None
        while True:
            page = await self.results(limit=100, cursor=cursor, **wanted)
            for result in page.results:
                yield result
            cursor = page.next_cursor
            if cursor is None:
                return

    async def result(self, result_id: str) -> RecordedResultAnswer:
        """Return a recorded result as it stands now."""
        return read_answer(
            RecordedResultAnswer, await self._send(Call("GET", result_path(result_id)))
        )

    async def history(self, result_id: str) -> ResultHistory:
        """Return every state of a result, the first first."""
        return read_answer(
            ResultHistory, await self._send(Call("GET", result_path(result_id, "/history")))
        )

    async def review(
        self,
        result_id: str,
        decision: Decision,
        *,
        reviewer: str,
        version: int,
        reason: str | None = None,
        count: int | None = None,
        labels: NDArray[np.integer[Any]] | None = None,
    ) -> RecordedResultAnswer:
        """Accept, edit or reject a result, and return it as it stands then.

        Args:
            result_id: `id` of the answer.
            decision: `accept` makes it final, `edit` corrected, `reject` cancelled.
            reviewer: The person, as your system names them.
            version: `current.version` that the reviewer saw; refused as `stale-version` where it
                has changed since.
            reason: Why; needed but for `accept`.
            count: The right number of nuclei, for `edit`.
            labels: The right nuclei, for `edit`: whole numbers of the image's shape (H, W), 0
                background. They give the count.
        """
        call = await asyncio.to_thread(
            review_call,
            result_id,
            decision,
            reviewer=reviewer,
            version=version,
            reason=reason,
            count=count,
            labels=labels,
        )
        return read_answer(RecordedResultAnswer, await self._send(call))

    def _key(self) -> str | None:
        return new_key() if self._keeps_records else None

    async def _send(self, call: Call) -> httpx.Response:
        attempts = Attempts(
            most=self._attempts, deadline_s=self._deadline_s, begun_s=time.monotonic()
        )
        while True:
            wait_s = attempts.remaining_s(time.monotonic())
            try:
                response = await self._exchange(call, wait_s)
            except httpx.TransportError as error:
                pause_s = attempts.pause_after_silence(error, time.monotonic())
            else:
                after_s = attempts.pause_after(response, time.monotonic())
                if after_s is None:
                    return response
                pause_s = after_s
            await asyncio.sleep(pause_s)

    async def _exchange(self, call: Call, wait_s: float) -> httpx.Response:
        try:
            async with asyncio.timeout(wait_s + GRACE_S):
                response = await self._http.send(call.to_request(self._http, wait_s), stream=True)
                async with contextlib.aclosing(response):
                    try:
                        await response.aread()
                    except httpx.DecodingError as error:
                        raise unreadable(response, "it is not compressed as it says") from error
        except TimeoutError as error:
            raise httpx.ReadTimeout("the answer did not end in time") from error
        return response
