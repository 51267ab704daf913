"""The HTTP API as the app uses it: one method a route, one exception for whatever goes wrong."""

import os
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2 as httpx

DEFAULT_URL: Final = "http://127.0.0.1:8000"
TIMEOUT_S: Final = 120.0
"""A large image on one core takes long; the service itself bounds the wait in its queue."""

Parameters = dict[str, str]
"""Query parameters of `POST /segment`."""


class ServiceError(Exception):
    """The service refused, or did not answer.

    Attributes:
        title: What went wrong.
        detail: This occurrence.
        remedy: What the user can do.
        status: HTTP status; 0 where there was no answer.
        problem: Last segment of the problem type (RFC 9457), such as `overloaded`.
        request_id: Under which the service's log has it.
    """

    def __init__(
        self,
        title: str,
        detail: str,
        *,
        remedy: str = "",
        status: int = 0,
        problem: str = "",
        request_id: str = "",
    ) -> None:
        super().__init__(f"{title}: {detail}")
        self.title = title
        self.detail = detail
        self.remedy = remedy
        self.status = status
        self.problem = problem
        self.request_id = request_id


def service_url() -> str:
    """Return the service's address from KARYON_URL."""
    return os.environ.get("KARYON_URL", DEFAULT_URL).rstrip("/")


@dataclass(frozen=True, slots=True)
class KaryonClient:
    """A connection to a running service; cheap to make, so each run of the script makes its own.

    Attributes:
        url: Address, without a slash at the end.
        api_key: Sent as X-API-Key where it is not empty. Never shown, never stored.
    """

    url: str
    api_key: str = field(default="", repr=False)

    def models(self) -> dict[str, Any]:
        """Return `GET /models`.

        Raises:
            ServiceError: The service refuses or is away, as with every method here.
        """
        return self._json("GET", "/models")

    def model(self, name: str) -> dict[str, Any]:
        """Return `GET /models/{name}`, with the contract; `name` may be `name:version`."""
        return self._json("GET", f"/models/{name}")

    def segment(
        self,
        image: bytes,
        name: str,
        parameters: Parameters,
        identity: dict[str, str] | None = None,
    ) -> bytes:
        """Return the answer of `POST /segment` as it came, in the format that was asked for.

        Args:
            image: The file's bytes.
            name: Its name, which the service does not keep.
            parameters: Query parameters.
            identity: Form fields `accession`, `specimen_id`, `order_id`; empty ones are left out.
        """
        fields = {key: value for key, value in (identity or {}).items() if value}
        files = {"image": (name, image, "application/octet-stream")}
        return self._send("POST", "/segment", params=parameters, data=fields, files=files).content

    def result(self, result_id: str) -> tuple[dict[str, Any], str]:
        """Return a recorded result as it stands, and its ETag."""
        response = self._send("GET", f"/results/{result_id}")
        return response.json(), response.headers.get("ETag", "")

    def review(self, result_id: str, etag: str, review: dict[str, Any]) -> dict[str, Any]:
        """File a review of the state that `etag` names, and return the result as it stands then."""
        path = f"/results/{result_id}/review"
        return self._json("POST", path, json=review, headers={"If-Match": etag})

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        document: dict[str, Any] = self._send(method, path, **options).json()
        return document

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {**options.pop("headers", {})}
        if self.api_key:
            headers["X-API-Key"] = self.api_key
        try:
            with httpx.Client(base_url=self.url, timeout=TIMEOUT_S) as client:
                response = client.request(method, path, headers=headers, **options)
                if response.is_success:
                    return response
                raise _to_error(response, client)
        except httpx.TimeoutException as error:
            raise ServiceError(
                "The service did not answer in time",
                f"No answer from {self.url} within {TIMEOUT_S:.0f} s.",
                remedy="Try again, or send a smaller image.",
            ) from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise ServiceError(
                "The service cannot be reached",
                f"No connection to {self.url}.",
                remedy="Start it with `make serve`, or set KARYON_URL to where it runs.",
            ) from error
        except UnicodeEncodeError as error:
            raise ServiceError(
                "The API key cannot be sent",
                "It has characters that no key has.",
                remedy="Copy the key again.",
            ) from error


def _to_error(response: httpx.Response, client: httpx.Client) -> ServiceError:
    """Read a problem (RFC 9457) and look its remedy up; proxies in between answer otherwise."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict) or "title" not in body:
        return ServiceError(
            f"HTTP status {response.status_code}",
            "The answer is none of Karyon's.",
            remedy="Look whether KARYON_URL names the service itself.",
            status=response.status_code,
        )
    reference = urlsplit(str(body.get("type", ""))).path
    remedy = ""
    if reference.startswith("/problems/"):
        try:
            remedy = str(
                client.get(reference, headers={"Accept": "application/json"}).json()["remedy"]
            )
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            remedy = ""
    return ServiceError(
        str(body["title"]),
        str(body.get("detail", "")),
        remedy=remedy,
        status=response.status_code,
        problem=reference.rpartition("/")[2],
        request_id=str(body.get("instance", "")),
    )
