"""The HTTP API as the app uses it: one method a route, one exception for whatever goes wrong."""

import functools
import os
import time
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2 as httpx

DEFAULT_URL: Final = "http://127.0.0.1:8000"
TIMEOUT_S: Final = 120.0
"""A large image on one core takes long; the service itself bounds the wait in its queue."""

PATIENCE_S: Final = 10.0
"""Longest wait for a service that is busy or starting, and says when to come again."""

UNREACHABLE: Final = "unreachable"
"""The `problem` of a `ServiceError` where there is no service; it may be starting."""
_BUSY: Final = (429, 503)
_OF_A_PROXY: Final = {
    413: (
        "The image is too large for a proxy before the service",
        "Send a smaller region or a compressed image, or let the proxy take larger bodies.",
    ),
    429: ("A proxy before the service has too many requests", "Wait a moment, then try again."),
    502: ("A proxy does not reach the service", "Wait a moment, then try again."),
    503: ("A proxy does not reach the service", "Wait a moment, then try again."),
    504: (
        "A proxy did not wait for the service",
        "Send a smaller region, or let the proxy wait longer.",
    ),
}
"""HTTP status to title and remedy."""

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


@functools.cache
def _connection(url: str) -> httpx.Client:
    """Return the connections to a service, kept: making a client costs more than most answers.

    All users of the app share them, so they keep no cookie that a proxy gives to one.
    """
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    return httpx.Client(base_url=url, timeout=TIMEOUT_S, cookies=no_cookies)


def service_url() -> str:
    """Return the service's address from KARYON_URL."""
    return os.environ.get("KARYON_URL", DEFAULT_URL).rstrip("/")


@dataclass(frozen=True, slots=True)
class KaryonClient:
    """A service and who asks it; cheap to make, so each run of the script makes its own.

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
        listed = self._json("GET", "/models")
        if not isinstance(listed.get("models"), list):
            raise _foreign(200)
        return listed

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
        response = self._send(method, path, **options)
        try:
            document = response.json()
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise _foreign(response.status_code)
        return document

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {**options.pop("headers", {})}
        if self.api_key:
            headers["X-API-Key"] = self.api_key
        try:
            client = _connection(self.url)
            deadline_s = time.monotonic() + PATIENCE_S
            while True:
                response = client.request(method, path, headers=headers, **options)
                if response.is_success:
                    # Karyon never answers so: it is a page of something in between, and no result.
                    if response.headers.get("Content-Type", "").startswith("text/html"):
                        raise _foreign(response.status_code)
                    return response
                wait_s = _told_to_wait_s(response)
                if wait_s is None or time.monotonic() + wait_s > deadline_s:
                    raise _to_error(response, client)
                time.sleep(wait_s)
        except httpx.TimeoutException as error:
            raise ServiceError(
                "The service did not answer in time",
                f"No answer from {self.url} within {TIMEOUT_S:.0f} s.",
                remedy="Try again, or send a smaller image.",
            ) from error
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
            raise ServiceError(
                "The service broke off",
                f"The connection to {self.url} ended before the answer: it was stopped or is"
                " being restarted.",
                remedy="Wait a moment and try again; your image is still here.",
                problem=UNREACHABLE,
            ) from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise ServiceError(
                "The service cannot be reached",
                f"No connection to {self.url}.",
                remedy="Start it with `make serve`, or set KARYON_URL to where it runs, such as"
                f" {DEFAULT_URL}.",
                problem=UNREACHABLE,
            ) from error
        except UnicodeEncodeError as error:
            raise ServiceError(
                "The API key cannot be sent",
                "It has characters that no key has.",
                remedy="Copy the key again.",
            ) from error


def _told_to_wait_s(response: httpx.Response) -> float | None:
    """Return how long a busy service asks to wait; None where it does not say, or is not busy."""
    told = response.headers.get("Retry-After", "")
    return float(told) if response.status_code in _BUSY and told.isdecimal() else None


def _foreign(status: int) -> ServiceError:
    """Return what to say of an answer that no Karyon gives; a proxy may stand in between."""
    title, remedy = _OF_A_PROXY.get(
        status,
        (
            f"HTTP status {status}",
            "Look whether KARYON_URL names the service itself, not a page that asks to log in.",
        ),
    )
    return ServiceError(title, "The answer is none of Karyon's.", remedy=remedy, status=status)


def _to_error(response: httpx.Response, client: httpx.Client) -> ServiceError:
    """Read a problem (RFC 9457) and look its remedy up; proxies in between answer otherwise."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict) or "title" not in body:
        return _foreign(response.status_code)
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
