"""What each call sends, and how its answer is read; shared by both clients."""

import base64
import datetime as dt
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, TypedDict, TypeVar, cast

import httpx2 as httpx
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from service import __version__
from service.api.record_answers import ResultStatus
from service.client.images import ImageSource, labels_to_png, to_image_bytes

Format: TypeAlias = Literal["png", "geojson", "csv", "fhir", "hl7", "coco"]
Decision: TypeAlias = Literal["accept", "edit", "reject"]
Parameter: TypeAlias = str | float | Sequence[str] | None

_GRACE_S: Final = 0.5

Answer = TypeVar("Answer", bound=BaseModel)


class SegmentOptions(TypedDict, total=False):
    """The parameters of `POST /segment`, as docs/api.md explains them; all may be left out."""

    model: str
    mask: Literal["binary", "labels", "overlay", "probability", "distance"]
    threshold: float
    min_area_um2: float
    min_area_px: float
    mpp: float
    include: Sequence[Literal["nuclei", "mask"]]
    mask_encoding: Literal["png", "rle"]
    accession: str
    specimen_id: str
    order_id: str
    priority: Literal["stat", "routine", "batch"]


class ResultFilter(TypedDict, total=False):
    """Which results are wanted, as docs/records.md explains; a time without an offset is UTC."""

    accession: str
    specimen_id: str
    order_id: str
    model: str
    status: ResultStatus
    held: bool
    since: dt.datetime
    until: dt.datetime


@dataclass(frozen=True, slots=True)
class Call:
    """One call, whichever number of attempts it takes.

    Attributes:
        method: `GET` or `POST`.
        path: Path below the service's address, without a leading slash.
        parameters: Query parameters.
        headers: Headers of every attempt.
        content: The body; None where there is none.
        tells_deadline: Whether the service is told how long the client waits.
    """

    method: Literal["GET", "POST"]
    path: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    tells_deadline: bool = False

    def to_request(self, client: httpx.Client | httpx.AsyncClient, wait_s: float) -> httpx.Request:
        """Return one attempt, which waits at most `wait_s` seconds."""
        headers = dict(self.headers)
        if self.tells_deadline:
            # The service bounds it at an hour.
            headers["X-Request-Timeout-Ms"] = str(min(max(int(wait_s * 1000), 1), 3_600_000))
        given = {
            name: value if isinstance(value, (str, int, float)) else ",".join(value)
            for name, value in self.parameters.items()
            if value is not None
        }
        return client.build_request(
            self.method,
            self.path,
            params=given,
            headers=headers,
            content=self.content,
            # A little longer than the service was told: its 504 says more than silence.
            timeout=wait_s + _GRACE_S,
        )


@dataclass(frozen=True, slots=True)
class Representation:
    """An answer in another form than JSON.

    Attributes:
        body: The file.
        media_type: What it is.
        id: Identifier of the result.
        count: Number of nuclei.
        headers: All headers, the `X-Karyon-` ones among them (docs/api.md).
    """

    body: bytes
    media_type: str
    id: str
    count: int
    headers: Mapping[str, str]


def client_headers(api_key: str | None) -> dict[str, str]:
    """Return the headers that every call carries."""
    headers = {"User-Agent": f"karyon-client/{__version__}"}
    return headers if api_key is None else {**headers, "X-API-Key": api_key}


def segment_call(
    image: ImageSource,
    output_format: Literal["json"] | Format,
    options: SegmentOptions,
    *,
    idempotency_key: str | None,
) -> Call:
    """Return the call of `POST /segment`; `idempotency_key` None sends none."""
    return Call(
        "POST",
        "segment",
        {**cast("Mapping[str, Parameter]", options), "format": output_format},
        {"Content-Type": "application/octet-stream", **_key(idempotency_key)},
        to_image_bytes(image),
        tells_deadline=True,
    )


def review_call(
    result_id: str,
    decision: Decision,
    *,
    reviewer: str,
    version: int,
    reason: str | None,
    count: int | None,
    labels: NDArray[np.integer[Any]] | None,
) -> Call:
    """Return the call of `POST /results/{id}/review`."""
    document: dict[str, Any] = {"decision": decision, "reviewer": reviewer}
    if reason is not None:
        document["reason"] = reason
    if count is not None:
        document["count"] = count
    if labels is not None:
        data = base64.b64encode(labels_to_png(labels)).decode()
        document["labels"] = {"encoding": "png", "data": data}
    return Call(
        "POST",
        f"results/{result_id}/review",
        headers={
            "Content-Type": "application/json",
            "If-Match": f'"{version}"',
            **_key(new_key()),
        },
        content=json.dumps(document).encode(),
    )


def list_call(wanted: ResultFilter, *, limit: int, cursor: str | None) -> Call:
    """Return the call of `GET /results`."""
    given = {
        name: value.isoformat() if isinstance(value, dt.datetime) else str(value)
        for name, value in wanted.items()
    }
    return Call("GET", "results", {**given, "limit": limit, "cursor": cursor})


def new_key() -> str:
    """Return an Idempotency-Key for one logical call."""
    return str(uuid.uuid4())


def _key(idempotency_key: str | None) -> dict[str, str]:
    return {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}


def read_answer(answer: type[Answer], response: httpx.Response) -> Answer:
    """Read a JSON answer; members that a later service added are passed over."""
    return answer.model_validate(response.json(), extra="ignore")


def read_representation(response: httpx.Response) -> Representation:
    """Read an answer in another form."""
    return Representation(
        body=response.content,
        media_type=response.headers["Content-Type"].partition(";")[0],
        id=response.headers["X-Karyon-Id"],
        count=int(response.headers["X-Karyon-Count"]),
        headers=dict(response.headers),
    )
