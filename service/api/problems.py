"""Errors over HTTP: one table from exception to status, one body (RFC 9457).

A 5xx never shows the text of an exception: the caller gets the request id, the log has the rest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from service import errors
from service.api.challenge import CHALLENGED, challenge
from service.api.upload import (
    ACCEPTED_BODIES,
    InvalidFormFieldError,
    MalformedBodyError,
    UnsupportedBodyError,
    UploadTimeoutError,
)
from service.api.work import ClientGoneError

PROBLEM_JSON = "application/problem+json"
CLIENT_CLOSED_REQUEST = 499  # no registered status: nginx's, for logs alone
_NOT_READY_RETRY_AFTER_S = 5
# Thousands of unknown parameters fit into a request line; nobody reads as many sentences.
_MOST_PARAMETER_ERRORS = 32


class UnknownProblemError(errors.KaryonError):
    """No problem type has that name."""


@dataclass(frozen=True, slots=True)
class ProblemType:
    """One row of the table.

    Attributes:
        name: Last segment of the type URI, `/problems/<name>`.
        status: HTTP status.
        title: What went wrong, the same for every occurrence.
        remedy: What the caller can do.
        raised: Exceptions that become this problem.
    """

    name: str
    status: int
    title: str
    remedy: str
    raised: tuple[type[Exception], ...] = ()

    @property
    def uri(self) -> str:
        """The `type` member: a relative reference to this problem's own page."""
        return f"/problems/{self.name}"


PROBLEM_TYPES: tuple[ProblemType, ...] = (
    ProblemType(
        "malformed-request",
        400,
        "The request is malformed",
        "Check the syntax of the body: its multipart boundary, its end.",
        (MalformedBodyError,),
    ),
    ProblemType(
        "missing-credential",
        401,
        "The request carries no credential",
        "Send an API key in X-API-Key, or a key or access token as `Authorization: Bearer`.",
        (errors.MissingCredentialError,),
    ),
    ProblemType(
        "invalid-credential",
        401,
        "The credential is unknown, expired or revoked",
        "Ask the operator for a new key (`python -m service keys create`), or renew the token.",
        (errors.InvalidCredentialError,),
    ),
    ProblemType(
        "insufficient-scope",
        403,
        "The credential is not good for this",
        "WWW-Authenticate names the scope that is needed; ask the operator for a key with it.",
        (errors.InsufficientScopeError,),
    ),
    ProblemType("not-found", 404, "No such resource", "See / or /docs for what there is."),
    ProblemType(
        "unknown-model",
        404,
        "No such model is loaded",
        "GET /models lists the models; leave `model` out to use the default one.",
        (errors.UnknownModelError,),
    ),
    ProblemType(
        "unknown-problem",
        404,
        "No such problem type",
        "GET /problems lists the problem types.",
        (UnknownProblemError,),
    ),
    ProblemType(
        "unknown-result",
        404,
        "No such result is recorded",
        "GET /results lists the results; one that is older than the retention time is gone.",
        (errors.UnknownResultError,),
    ),
    ProblemType(
        "records-off",
        404,
        "The service keeps no records",
        "Start it with KARYON_RECORDS=true.",
        (errors.RecordsOffError,),
    ),
    ProblemType(
        "method-not-allowed",
        405,
        "The resource does not know this method",
        "The Allow header names the methods it knows.",
    ),
    ProblemType(
        "not-acceptable",
        406,
        "No acceptable representation",
        "Accept application/json, or another representation that the detail names.",
        (errors.NotAcceptableError,),
    ),
    ProblemType(
        "upload-timeout",
        408,
        "The body took too long to arrive",
        "Send the image faster, or compress it; the bound is KARYON_UPLOAD_TIMEOUT_S.",
        (UploadTimeoutError,),
    ),
    ProblemType(
        "review-conflict",
        409,
        "The status of the result does not allow this decision",
        "Accept takes preliminary results, edit and reject all but cancelled ones.",
        (errors.ReviewConflictError,),
    ),
    ProblemType(
        "idempotency-key-in-flight",
        409,
        "A request with this Idempotency-Key is still being carried out",
        "Try again with the same key after the seconds in Retry-After.",
        (errors.IdempotencyKeyInFlightError,),
    ),
    ProblemType(
        "stale-version",
        412,
        "The result has changed since it was read",
        "GET the result again, look at it, and give its new ETag as If-Match.",
        (errors.StaleVersionError,),
    ),
    ProblemType(
        "body-too-large",
        413,
        "The body has too many bytes",
        "Send a smaller region or a compressed image; the bound is KARYON_MAX_BODY_BYTES.",
        (errors.BodyTooLargeError,),
    ),
    ProblemType(
        "image-too-large",
        413,
        "The image has too many pixels",
        "Cut the image into regions; the bound is KARYON_MAX_PIXELS.",
        (errors.ImageTooLargeError,),
    ),
    ProblemType(
        "unsupported-body",
        415,
        "The body is of a content type that is not read",
        f"Send an image as {ACCEPTED_BODIES}, a review as application/json; no Content-Encoding.",
        (UnsupportedBodyError,),
    ),
    ProblemType(
        "unreadable-image",
        415,
        "The bytes are no image that is read",
        "Send a whole PNG, JPEG, TIFF, WebP or BMP file.",
        (errors.UnreadableImageError,),
    ),
    ProblemType(
        "unsupported-image",
        422,
        "The image is of a kind that is refused",
        "The detail says how to convert it.",
        (errors.UnsupportedImageError,),
    ),
    ProblemType(
        "image-too-small",
        422,
        "The image is too small to hold nuclei",
        "Send a larger region at the resolution it was scanned with.",
        (errors.ImageTooSmallError,),
    ),
    ProblemType(
        "invalid-parameter",
        422,
        "A parameter is invalid",
        "`errors` names each parameter and what it may be.",
        (errors.InvalidParameterError, RequestValidationError),
    ),
    ProblemType(
        "idempotency-key-reused",
        422,
        "The Idempotency-Key was used for another request",
        "Use a new key for each new request, and the same only for a repetition.",
        (errors.IdempotencyKeyReusedError,),
    ),
    ProblemType(
        "precondition-required",
        428,
        "The request must say which version it is about",
        "Send the ETag of the result as If-Match.",
        (errors.PreconditionRequiredError,),
    ),
    ProblemType(
        "patient-data-refused",
        422,
        "Patient data is refused",
        "Send accession, specimen_id and order_id; never a name, a birth date or a record number.",
        (errors.PatientDataError,),
    ),
    ProblemType(
        "headers-too-large",
        431,
        "The request line and headers have too many bytes",
        "Send fewer headers; the bound is KARYON_MAX_HEADER_BYTES. The connection is closed.",
    ),
    ProblemType(
        "internal-error",
        500,
        "The service failed",
        "It is not your fault. Tell the operator the `instance`, which finds the log line.",
        (
            errors.ModelContractError,
            errors.ProviderError,
            errors.DatabaseError,
            errors.SigningKeyError,
        ),
    ),
    ProblemType(
        "overloaded",
        503,
        "The queue is full",
        "Try again after the seconds in Retry-After.",
        (errors.OverloadedError,),
    ),
    ProblemType(
        "not-ready",
        503,
        "The service is starting up or draining",
        "Try again after the seconds in Retry-After, or another replica.",
        (errors.NotReadyError,),
    ),
    ProblemType(
        "records-unavailable",
        503,
        "The database of the records does not answer",
        "Try again after the seconds in Retry-After. No result is given out that is not recorded.",
        (errors.RecordsUnavailableError,),
    ),
    ProblemType(
        "identity-provider-unavailable",
        503,
        "The issuer of access tokens does not answer",
        "Try again after the seconds in Retry-After, or use an API key.",
        (errors.IdentityProviderError,),
    ),
)

PROBLEMS_BY_NAME: Mapping[str, ProblemType] = {problem.name: problem for problem in PROBLEM_TYPES}
_BY_EXCEPTION: Mapping[type[Exception], ProblemType] = {
    raised: problem for problem in PROBLEM_TYPES for raised in problem.raised
}
_FRAMEWORK_STATUS: Mapping[int, ProblemType] = {
    400: PROBLEMS_BY_NAME["malformed-request"],
    404: PROBLEMS_BY_NAME["not-found"],
    405: PROBLEMS_BY_NAME["method-not-allowed"],
    413: PROBLEMS_BY_NAME["body-too-large"],
}


def problem_type_of(error: Exception) -> ProblemType:
    """Return the row of the table for an exception: its class's, or its nearest base's."""
    if isinstance(error, HTTPException):
        return _FRAMEWORK_STATUS.get(error.status_code, PROBLEMS_BY_NAME["internal-error"])
    for ancestor in type(error).__mro__:
        if ancestor in _BY_EXCEPTION:
            return _BY_EXCEPTION[ancestor]
    return PROBLEMS_BY_NAME["internal-error"]


def _validation_errors(error: RequestValidationError) -> list[dict[str, Any]]:
    # `input` and `ctx` are left out: they repeat what the caller sent, at any length.
    return [
        {
            "location": [str(step)[:64] for step in detail["loc"]],
            "message": detail["msg"],
        }
        for detail in error.errors()[:_MOST_PARAMETER_ERRORS]
    ]


def problem_document(
    problem: ProblemType,
    *,
    detail: str,
    instance: str,
    parameter_errors: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the RFC 9457 members of one occurrence."""
    document: dict[str, Any] = {
        "type": problem.uri,
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
        "instance": instance,
    }
    if parameter_errors:
        document["errors"] = list(parameter_errors)
    return document


def problem_response(request: Request, error: Exception) -> Response:
    """Answer an exception with its problem document, and count it.

    Args:
        request: The request; its id becomes `instance`.
        error: What was raised. Its message is shown only for the errors in the table below 500 and
            for the 503, all of which are written for callers.
    """
    problem = problem_type_of(error)
    parameter_errors: list[dict[str, Any]] = []
    headers: dict[str, str] = {}
    if isinstance(error, RequestValidationError):
        parameter_errors = _validation_errors(error)
        detail = "; ".join(
            f"{'.'.join(item['location'][1:])}: {item['message']}" for item in parameter_errors[:5]
        )
    elif problem.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        detail = "An unexpected error occurred; the log holds it under this instance."
    elif isinstance(error, HTTPException):
        detail = problem.remedy
        headers.update(error.headers or {})
    else:
        detail = str(error)
    if isinstance(error, errors.InvalidParameterError):
        place = "body" if isinstance(error, InvalidFormFieldError) else error.place
        parameter_errors = [{"location": [place, error.parameter], "message": detail}]
    if isinstance(error, (errors.OverloadedError, errors.IdempotencyKeyInFlightError)):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(
        error,
        (errors.NotReadyError, errors.RecordsUnavailableError, errors.IdentityProviderError),
    ):
        headers["Retry-After"] = str(_NOT_READY_RETRY_AFTER_S)
    if problem.status in CHALLENGED:
        headers["WWW-Authenticate"] = challenge(error)
    if isinstance(error, errors.NotAcceptableError):
        headers["Vary"] = "Accept"
    if isinstance(error, UnsupportedBodyError):
        headers["Accept-Post"] = error.accepted
        headers["Accept-Encoding"] = "identity"
    request.app.state.observer.problem(problem.name)
    document = problem_document(
        problem,
        detail=detail,
        instance=request.state.request_id,
        parameter_errors=parameter_errors,
    )
    return Response(
        orjson.dumps(document),
        status_code=problem.status,
        headers=headers,
        media_type=PROBLEM_JSON,
    )


async def _answer_problem(request: Request, error: Exception) -> Response:
    return problem_response(request, error)


async def _answer_nobody(_request: Request, _error: Exception) -> Response:
    """The client is gone: the status only reaches the access log and the metrics."""
    return Response(status_code=CLIENT_CLOSED_REQUEST)


def register_problem_handlers(app: FastAPI) -> None:
    """Let every exception of the table, and the framework's own, end as a problem document."""
    for handled in (errors.KaryonError, HTTPException, RequestValidationError):
        app.add_exception_handler(handled, _answer_problem)
    for gone in (ClientDisconnect, ClientGoneError):
        app.add_exception_handler(gone, _answer_nobody)
