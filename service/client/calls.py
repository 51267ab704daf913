"""What each call sends, and how its answer is read; shared by both clients."""

import base64
import datetime as dt
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, TypedDict, TypeVar, cast
from urllib.parse import quote

import httpx2 as httpx
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from service import __version__
from service.api.record_answers import ResultStatus
from service.client.failures import UnreadableAnswerError
from service.client.images import ImageSource, labels_to_png, to_image_bytes

Format: TypeAlias = Literal["png", "geojson", "csv", "fhir", "hl7", "coco"]
Decision: TypeAlias = Literal["accept", "edit", "reject"]
Parameter: TypeAlias = str | float | Sequence[str] | None

GRACE_S: Final = 0.5
"""A little longer than the service was told is waited: its 504 says more than silence."""

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

    def to_request(
        self,
        client: httpx.Client | httpx.AsyncClient,
        wait_s: float,
        parts: Iterable[bytes] | None = None,
    ) -> httpx.Request:
        """Return one attempt, which waits at most `wait_s` seconds.

        Args:
            client: Builds it.
            wait_s: Bounds each read and write.
            parts: The content, piece by piece, for a client that looks at the clock between them.
        """
        headers = dict(self.headers)
        if self.content is not None:
            headers["Content-Length"] = str(len(self.content))
        if self.tells_deadline:
            # The service bounds it at an hour.
            headers["X-Request-Timeout-Ms"] = str(min(max(int(wait_s * 1000), 1), 3_600_000))
        given = {
            name: plain if isinstance(plain, (str, int, float)) else ",".join(plain)
            for name, value in self.parameters.items()
            if (plain := _to_plain(value)) is not None
        }
        return client.build_request(
            self.method,
            self.path,
            params=given,
            headers=headers,
            content=self.content if parts is None else parts,
            timeout=wait_s + GRACE_S,
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
    """Return the headers that every call carries.

    Raises:
        ValueError: The key can be in no header; the message does not show it.
    """
    if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
        raise ValueError(
            "the API key has a line end or another character that no key has; of a file's text"
            " give text.strip()"
        )
    headers = {"User-Agent": f"karyon-client/{__version__}"}
    return headers if api_key is None else {**headers, "X-API-Key": api_key}


def to_address(address: str) -> str:
    """Return the address of a service, as given.

    Raises:
        ValueError: It has no scheme or no host, so that nothing could ever answer.
    """
    try:
        parts = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise ValueError(f"{address!r} is no address: {error}") from error
    if parts.scheme not in {"http", "https"} or not parts.host:
        raise ValueError(
            f"{address!r} must begin with http:// or https://, such as http://127.0.0.1:8000"
        )
    return address


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
        result_path(result_id, "/review"),
        headers={
            "Content-Type": "application/json",
            "If-Match": f'"{version}"',
            **_key(new_key()),
        },
        content=json.dumps(document, default=_to_plain).encode(),
    )


def result_path(result_id: str, below: str = "") -> str:
    """Return the path of a result; an id with a slash in it must not become another path."""
    return f"results/{quote(result_id, safe='')}{below}"


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


def _to_plain(value: Any) -> Any:
    """Return a NumPy number, which measurements and counts often are, as Python's own."""
    return value.item() if isinstance(value, np.generic) else value


def _key(idempotency_key: str | None) -> dict[str, str]:
    return {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}


def read_answer(answer: type[Answer], response: httpx.Response) -> Answer:
    """Read a JSON answer; members that a later service added are passed over.

    Raises:
        UnreadableAnswerError: It is none.
    """
    try:
        return answer.model_validate(response.json(), extra="ignore")
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, item["loc"])) for item in error.errors()[:3])
        raise unreadable(response, f"missing or wrong: {wrong}") from error
    except (ValueError, RecursionError) as error:
        raise unreadable(response, "it is no JSON") from error


def read_representation(response: httpx.Response) -> Representation:
    """Read an answer in another form.

    Raises:
        UnreadableAnswerError: It lacks the service's headers.
    """
    try:
        return Representation(
            body=response.content,
            media_type=response.headers["Content-Type"].partition(";")[0],
            id=response.headers["X-Karyon-Id"],
            count=int(response.headers["X-Karyon-Count"]),
            headers=dict(response.headers),
        )
    except (KeyError, ValueError) as error:
        raise unreadable(response, "it has no X-Karyon headers") from error


def unreadable(response: httpx.Response, why: str) -> UnreadableAnswerError:
    """Return the error for an answer of success that is none of Karyon's."""
    kind = response.headers.get("Content-Type", "no Content-Type")
    return UnreadableAnswerError(
        f"{response.status_code}, but no answer of Karyon's: {why} ({kind}). Check the address,"
        " and what stands between, such as a proxy's login.",
        status=response.status_code,
    )
