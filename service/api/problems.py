"""Errors over HTTP: one table from exception to status, one body (RFC 9457).

A 5xx never shows the text of an exception: the caller gets the request id, the log has the rest.
"""

from collections.abc import Mapping, Sequence
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
from service.api.known_names import unknown_name_message
from service.api.problem_table import (
    PROBLEM_TYPES,
    PROBLEMS_BY_NAME,
    ProblemType,
)
from service.api.shape_messages import shape_message
from service.api.upload import InvalidFormFieldError, UnsupportedBodyError

PROBLEM_JSON = "application/problem+json"
CLIENT_CLOSED_REQUEST = 499  # no registered status: nginx's, for logs alone
_NOT_READY_RETRY_AFTER_S = 5
# Thousands of unknown parameters fit into a request line; nobody reads as many sentences.
_MOST_PARAMETER_ERRORS = 32


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


def _validation_errors(request: Request, error: RequestValidationError) -> list[dict[str, Any]]:
    # `input` and `ctx` are left out: they repeat what the caller sent, at any length.
    listed: list[dict[str, Any]] = []
    for detail in error.errors()[:_MOST_PARAMETER_ERRORS]:
        location = [str(step)[:64] for step in detail["loc"]]
        message = shape_message(detail)
        if detail["type"] == "extra_forbidden":
            message = unknown_name_message(request, location)
        entry = {"location": location, "message": message}
        # Parameters that two dependencies of a route share are validated once for each.
        if entry not in listed:
            listed.append(entry)
    return listed


def problem_document(
    problem: ProblemType,
    *,
    detail: str,
    instance: str,
    parameter_errors: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the RFC 9457 members of one occurrence, and what to do about its kind."""
    document: dict[str, Any] = {
        "type": problem.uri,
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
        "instance": instance,
        "remedy": problem.remedy,
    }
    if parameter_errors:
        document["errors"] = list(parameter_errors)
    return document


def _headers_of(error: Exception, problem: ProblemType) -> dict[str, str]:
    """Return the headers that tell a client program what the detail tells a person."""
    headers: dict[str, str] = {}
    if isinstance(error, (errors.OverloadedError, errors.IdempotencyKeyInFlightError)):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, errors.QuotaExceededError):
        headers |= {"Retry-After": str(error.retry_after_s), **error.headers}
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
    return headers


def problem_response(request: Request, error: Exception) -> Response:
    """Answer an exception with its problem document, and count it.

    Args:
        request: The request; its id becomes `instance`.
        error: What was raised. Its message is shown only for the errors in the table below 500 and
            for 503 and 504, all of which are written for callers.
    """
    problem = problem_type_of(error)
    parameter_errors: list[dict[str, Any]] = []
    headers: dict[str, str] = {}
    if isinstance(error, RequestValidationError):
        parameter_errors = _validation_errors(request, error)
        # A body that is no JSON at all has no place in it that could be named.
        detail = "; ".join(
            f"{'.'.join(item['location'][1:])}: {item['message']}".removeprefix(": ")
            for item in parameter_errors[:5]
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
    if isinstance(error, errors.UnusableOrderError) and error.location:
        parameter_errors = [{"location": ["body", error.location], "message": detail}]
    headers |= _headers_of(error, problem)
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
    for gone in (ClientDisconnect, errors.ClientGoneError):
        app.add_exception_handler(gone, _answer_nobody)
