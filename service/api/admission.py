"""From the bytes of an image to its answer: from the cache, or admitted, queued and computed.

Admission goes by the image's header alone: nothing is decoded for a request that is refused.
"""

import asyncio
import dataclasses
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from service.allocator import give_back_memory
from service.api.answer import Result, make_result, recall_result
from service.api.cache import CacheKey
from service.api.negotiation import JSON, PNG
from service.api.parameters import SegmentParameters
from service.api.recording import make_record
from service.api.representation import represent, signed_document
from service.api.room import Place
from service.api.state import ServiceState
from service.images.decode import ImageLimits, check_bounds, read_header
from service.images.image import ImageHeader
from service.outputs.identity import OrderReference
from service.records.results import NewResult
from service.segmenter import Segmenter

_RGB_BYTES = 3


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent.

    Attributes:
        result: The result.
        body: It in the representation asked for.
        headers: Its own headers.
        record: What is to be filed of it; None where no records are kept.
    """

    result: Result
    body: bytes
    headers: dict[str, str]
    record: NewResult | None = None


def _cache_key(
    data: bytes, media_type: str, parameters: SegmentParameters, segmenter: Segmenter
) -> CacheKey | None:
    """Return the key of a result; None where the answer needs the image's pixels."""
    shows_mask = media_type == PNG or "mask" in parameters.include
    if shows_mask and parameters.mask == "overlay":
        return None
    return CacheKey(
        sha256=hashlib.sha256(data).hexdigest(),
        model_digest=segmenter.session.digest,
        provider=segmenter.session.provider,
        precision=segmenter.session.precision,
        options=parameters.segment_options(),
    )


async def answer_image(
    data: bytes,
    media_type: str,
    parameters: SegmentParameters,
    state: ServiceState,
    segmenter: Segmenter,
    place: Place,
    gone: asyncio.Future[None],
    caller_id: str,
    order: OrderReference | None = None,
) -> Answer:
    """Answer one image.

    Args:
        data: The bytes of the file.
        media_type: The representation that was negotiated.
        parameters: What the caller asked for.
        state: The open service.
        segmenter: The model to use, from here to the end.
        place: The request's place in the queue.
        gone: Done when the client went away.
        caller_id: Who asks, for the record.
        order: The order that the image answers, if it is known.

    Raises:
        KaryonError: The image or a parameter is refused, there is no room, or nobody waits.
    """
    limits = ImageLimits(
        max_pixels=state.settings.max_pixels, min_side_px=state.settings.min_side_px
    )
    start_s = time.perf_counter()

    def finish(found: Result) -> Answer:
        result = dataclasses.replace(found, order=order)
        document = None
        if state.recorder is not None or media_type == JSON:
            document = signed_document(result, parameters, state.keyring)
        represented = represent(
            result,
            media_type,
            parameters,
            keyring=state.keyring,
            reporting=state.settings.reporting,
            document=document,
        )
        if state.recorder is None or document is None:
            return Answer(result, *represented)
        kept = data if state.settings.keep_images else None
        record = make_record(
            result,
            document,
            caller_id=caller_id,
            image=kept,
            hold_unknown=state.settings.unknown_accession == "hold",
        )
        return Answer(result, *represented, record)

    def look() -> Answer | tuple[CacheKey | None, ImageHeader, int]:
        key = None
        if state.cache.max_bytes:
            key = _cache_key(data, media_type, parameters, segmenter)
        stored = None if key is None else state.cache.get(key)
        if key is not None and stored is not None:
            result = recall_result(
                stored,
                segmenter.session,
                parameters.identity,
                sha256=key.sha256,
                upload_bytes=len(data),
                start_s=start_s,
            )
            return finish(result)
        header = read_header(data)
        check_bounds(header, limits)
        return key, header, segmenter.tiles_of(header.height_px, header.width_px, parameters.mpp)

    found = await state.pool.aside(look)
    if isinstance(found, Answer):
        return found
    key, header, tiles = found
    await state.pool.room.admit(
        place,
        tiles=tiles,
        decoded_bytes=_RGB_BYTES * header.width_px * header.height_px,
        gone=gone,
    )

    def work(queue_ms: float) -> Answer:
        result = make_result(data, segmenter, parameters, limits, place.ticket, state.pool.helpers)
        result.timings_ms["queue"] = queue_ms
        if key is not None:
            state.cache.put(
                key,
                result.image,
                result.segmentation,
                pixel_sha256=result.pixel_sha256,
                labels_sha256=result.labels_sha256,
            )
        return finish(result)

    return await state.pool.run(_tidily(work, tiles), place, gone=gone)


def _tidily(work: Callable[[float], Answer], tiles: int) -> Callable[[float], Answer]:
    """Give back the memory that an image of several tiles leaves behind.

    It lies between smaller pieces that stay, and over thousands of requests it adds up.
    """
    if tiles <= 1:
        return work

    def work_and_tidy(queue_ms: float) -> Answer:
        try:
            return work(queue_ms)
        finally:
            give_back_memory()

    return work_and_tidy
