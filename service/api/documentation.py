"""How answers are written into the OpenAPI document: statuses, headers, examples."""

from typing import Any

from service.api.challenge import CHALLENGED
from service.api.problem_table import PROBLEMS_BY_NAME
from service.api.problems import PROBLEM_JSON, problem_document
from service.api.schemas import Problem

_EXAMPLE_INSTANCE = "6f1c0a2f4e5d4b3a9c8d7e6f5a4b3c2d"
_EXAMPLE_ERRORS = [{"location": ["query", "threshold"], "message": "Input should be less than 1"}]

REQUEST_ID_HEADER = {
    "X-Request-ID": {
        "description": "The caller's X-Request-ID, or one made for this request.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"},
        "example": _EXAMPLE_INSTANCE,
    }
}
ANSWERED: dict[int | str, dict[str, Any]] = {200: {"headers": REQUEST_ID_HEADER}}
"""The headers of a plain answer; FastAPI adds its shape."""

_RETRY_AFTER_HEADER = {
    "Retry-After": {
        "description": "Whole seconds until a try is sensible.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
        "example": 3,
    }
}
QUOTA_HEADERS: dict[str, Any] = {
    "RateLimit-Policy": {
        "description": "Quota `q` in a window of `w` seconds; only where a quota is set.",
        "schema": {"type": "string"},
        "example": '"minute";q=60;w=60',
    },
    "RateLimit": {
        "description": "Requests `r` left, and seconds `t` until the quota is full again.",
        "schema": {"type": "string"},
        "example": '"minute";r=59;t=60',
    },
}
_ALLOW_HEADER = {
    "Allow": {
        "description": "The methods of this resource.",
        "required": True,
        "schema": {"type": "string"},
        "example": "POST",
    }
}
_CHALLENGE_HEADER = {
    "WWW-Authenticate": {
        "description": "Which credential is needed (RFC 6750).",
        "required": True,
        "schema": {"type": "string"},
        "example": 'Bearer realm="karyon"',
    }
}
VARY_HEADER = {
    "Vary": {
        "description": "The representation depends on Accept.",
        "required": True,
        "schema": {"type": "string"},
        "example": "Accept",
    }
}


def _headers_of(status: int, names: list[str]) -> dict[str, Any]:
    headers: dict[str, Any] = dict(REQUEST_ID_HEADER)
    # Of the two 409, the one that waiting helps.
    if status in (429, 503) or names == ["idempotency-key-in-flight"]:
        headers |= _RETRY_AFTER_HEADER
    if status == 429:
        headers |= QUOTA_HEADERS
    if status == 405:
        headers |= _ALLOW_HEADER
    if status in CHALLENGED:
        headers |= _CHALLENGE_HEADER
    if "not-acceptable" in names:
        headers |= VARY_HEADER
    return headers


def problem_answers(*names: str) -> dict[int | str, dict[str, Any]]:
    """Return FastAPI's `responses` for problem types, one entry a status, one example a type.

    Args:
        *names: Names of problem types; types of one status share its entry.
    """
    by_status: dict[int, list[str]] = {}
    for name in names:
        by_status.setdefault(PROBLEMS_BY_NAME[name].status, []).append(name)
    answers: dict[int | str, dict[str, Any]] = {}
    for status, of_status in sorted(by_status.items()):
        examples = {}
        for name in of_status:
            problem = PROBLEMS_BY_NAME[name]
            invalid = name == "invalid-parameter"
            examples[name] = {
                "summary": problem.title,
                "value": problem_document(
                    problem,
                    detail=(
                        "threshold: Input should be less than 1" if invalid else problem.title + "."
                    ),
                    instance=_EXAMPLE_INSTANCE,
                    parameter_errors=_EXAMPLE_ERRORS if invalid else (),
                ),
            }
        answers[status] = {
            "description": "; ".join(PROBLEMS_BY_NAME[name].title for name in of_status),
            "headers": _headers_of(status, of_status),
            "content": {
                PROBLEM_JSON: {
                    "schema": {"$ref": f"#/components/schemas/{Problem.__name__}"},
                    "examples": examples,
                }
            },
        }
    return answers


def document_guards(document: dict[str, Any]) -> None:
    """Add to each operation that asks for a credential what it answers without a good one.

    Args:
        document: The OpenAPI document; changed in place.
    """
    names = ("missing-credential", "invalid-credential", "insufficient-scope")
    reading, changing = problem_answers(*names), problem_answers(*names, "foreign-page")
    for operations in document["paths"].values():
        for method, operation in operations.items():
            if "security" not in operation:
                continue
            answers = operation["responses"]
            refusals = reading if method == "get" else changing
            answers |= {str(status): answer for status, answer in refusals.items()}
            if "503" in answers:
                content = answers["503"]["content"][PROBLEM_JSON]
                name = "identity-provider-unavailable"
                example = problem_answers(name)[503]["content"][PROBLEM_JSON]["examples"]
                # Entries are shared between operations: a copy, never a change in place.
                examples = {**content["examples"], **example}
                answers["503"] = {
                    **answers["503"],
                    "content": {PROBLEM_JSON: {**content, "examples": examples}},
                }
            operation["responses"] = dict(sorted(answers.items()))
