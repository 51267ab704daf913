"""The client for plain code; `service.client.asynchronous` is the same with `await`."""

import contextlib
import time
from collections.abc import Iterator
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
from service.client.deadlines import TimedParts, TimedStream
from service.client.images import ImageSource


class Client:
    """A service at an address; use it as a context manager, or close it.

    Calls are repeated where that is safe and may help: no answer came, or the service asks to try
    again later (`Retry-After` is honoured). All attempts of a call carry one Idempotency-Key.

    Args:
        address: Such as `http://127.0.0.1:8000`.
        api_key: Sent as `X-API-Key`; None where the service asks for none.
        deadline_s: Seconds for a call, its repetitions and pauses included. The service is told,
            and drops work that nobody waits for.
        attempts: Most attempts of a call.
        keeps_records: Whether the service keeps records. One that keeps none refuses an
            Idempotency-Key, so none is sent; a repetition then segments again and files nothing.
        transport: Another way to the service than a socket, such as a proxy's.

    Every call raises `ProblemError` where the service refuses it, `UnreachableError` where no
    answer comes, and `UnreadableAnswerError` where something else answers, such as a proxy.

    Raises:
        ValueError: The address has no scheme, the key can be in no header, or a limit is none.
    """

    def __init__(
        self,
        address: str,
        *,
        api_key: str | None = None,
        deadline_s: float = 60.0,
        attempts: int = 5,
        keeps_records: bool = True,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        checked_limits(attempts=attempts, deadline_s=deadline_s)
        self._deadline_s = deadline_s
        self._attempts = attempts
        self._keeps_records = keeps_records
        self._http = httpx.Client(
            base_url=to_address(address), headers=client_headers(api_key), transport=transport
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def segment(self, image: ImageSource, **options: Unpack[SegmentOptions]) -> SegmentationAnswer:
        """Segment an image: count, interval, areas, quality flags.

        Args:
            image: A path, a file's bytes, or uint8 pixels, (H, W, 3) RGB or (H, W) grey.
            **options: The parameters of `POST /segment`.
        """
        call = segment_call(image, "json", options, idempotency_key=self._key())
        return read_answer(SegmentationAnswer, self._send(call))

    def segment_as(
        self, image: ImageSource, output_format: Format, **options: Unpack[SegmentOptions]
    ) -> Representation:
        """Segment an image and return the answer as a file: a mask, GeoJSON, CSV, FHIR, HL7, COCO.

        Args:
            image: As for `segment`.
            output_format: `png` (`mask` says which), `geojson`, `csv`, `fhir`, `hl7` or `coco`.
            **options: The parameters of `POST /segment`.
        """
        call = segment_call(image, output_format, options, idempotency_key=self._key())
        return read_representation(self._send(call))

    def results(
        self, *, limit: int = 20, cursor: str | None = None, **wanted: Unpack[ResultFilter]
    ) -> ResultList:
        """Return a page of recorded results, the newest first; `next_cursor` gives the next."""
        return read_answer(ResultList, self._send(list_call(wanted, limit=limit, cursor=cursor)))

    def all_results(self, **wanted: Unpack[ResultFilter]) -> Iterator[RecordedResultAnswer]:
        """Yield all recorded results, the newest first, page after page."""
        cursor: str | None = None
        while True:
            page = self.results(limit=100, cursor=cursor, **wanted)
            yield from page.results
            cursor = page.next_cursor
            if cursor is None:
                return

    def result(self, result_id: str) -> RecordedResultAnswer:
        """Return a recorded result as it stands now."""
        return read_answer(RecordedResultAnswer, self._send(Call("GET", result_path(result_id))))

    def history(self, result_id: str) -> ResultHistory:
        """Return every state of a result, the first first."""
        return read_answer(
            ResultHistory, self._send(Call("GET", result_path(result_id, "/history")))
        )

    def review(
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
        call = review_call(
            result_id,
            decision,
            reviewer=reviewer,
            version=version,
            reason=reason,
            count=count,
            labels=labels,
        )
        return read_answer(RecordedResultAnswer, self._send(call))

    def _key(self) -> str | None:
        return new_key() if self._keeps_records else None

    def _send(self, call: Call) -> httpx.Response:
        attempts = Attempts(
            most=self._attempts, deadline_s=self._deadline_s, begun_s=time.monotonic()
        )
        while True:
            wait_s = attempts.remaining_s(time.monotonic())
            try:
                response = self._exchange(call, wait_s)
            except httpx.TransportError as error:
                pause_s = attempts.pause_after_silence(error, time.monotonic())
            else:
                after_s = attempts.pause_after(response, time.monotonic())
                if after_s is None:
                    return response
                pause_s = after_s
            time.sleep(pause_s)

    def _exchange(self, call: Call, wait_s: float) -> httpx.Response:
        until_s = time.monotonic() + wait_s + GRACE_S
        parts = None if call.content is None else TimedParts(call.content, until_s)
        response = self._http.send(call.to_request(self._http, wait_s, parts), stream=True)
        with contextlib.closing(response):
            if isinstance(response.stream, httpx.SyncByteStream):
                response.stream = TimedStream(response.stream, until_s)
            try:
                response.read()
            except httpx.DecodingError as error:
                raise unreadable(response, "it is not compressed as it says") from error
        return response
