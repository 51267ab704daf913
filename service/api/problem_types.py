"""The pages behind the `type` of every error answer: GET /problems and /problems/{name}."""

from fastapi import APIRouter

from service.api.documentation import ANSWERED, problem_answers
from service.api.problem_table import (
    PROBLEM_TYPES,
    PROBLEMS_BY_NAME,
    ProblemType,
    UnknownProblemError,
)
from service.api.schemas import ProblemTypeDescription

router = APIRouter(tags=["problems"])


def _description(problem: ProblemType) -> ProblemTypeDescription:
    return ProblemTypeDescription(
        type=problem.uri, title=problem.title, status=problem.status, remedy=problem.remedy
    )


@router.get(
    "/problems",
    operation_id="listProblemTypes",
    summary="List the problem types",
    responses={**ANSWERED, **problem_answers("internal-error")},
)
async def list_problem_types() -> list[ProblemTypeDescription]:
    """Every error answer of this service has one of these types."""
    return [_description(problem) for problem in PROBLEM_TYPES]


@router.get(
    "/problems/{name}",
    operation_id="getProblemType",
    summary="Explain a problem type",
    responses={
        **ANSWERED,
        **problem_answers("unknown-problem", "internal-error"),
    },
)
async def get_problem_type(name: str) -> ProblemTypeDescription:
    """What the problem means and what to do about it."""
    if name not in PROBLEMS_BY_NAME:
        raise UnknownProblemError("No problem type has that name.")
    return _description(PROBLEMS_BY_NAME[name])
