"""POST /models/{name}/versions/{version}/activate and /models/{name}/rollback: for operators."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path

from service.api import schemas
from service.api.auth import AdminCaller, Caller
from service.api.documentation import ANSWERED, problem_answers
from service.api.recording import audit_activation
from service.api.state import ServiceState, StateDependency
from service.inference.repository import Activation
from service.inference.session import ModelSession

router = APIRouter(tags=["models"])

Name = Annotated[str, Path(max_length=64, description="Name of the model.")]
Version = Annotated[str, Path(max_length=64, description="Version, as in the folder's name.")]


def _answer(change: Activation, session: ModelSession) -> schemas.ActivationAnswer:
    return schemas.ActivationAnswer(
        name=change.name,
        version=change.version,
        digest=session.digest,
        previous=change.previous,
        provider=session.provider,
        precision=session.precision,
        persisted=change.persisted,
    )


async def _audit(state: ServiceState, caller: Caller, session: ModelSession) -> None:
    """Tell the audit trail which model answers from now on, and who wanted it."""
    if state.recorder is None:
        return
    await state.recorder.write(
        lambda transaction: audit_activation(transaction, session, actor=caller.id)
    )


@router.post(
    "/models/{name}/versions/{version}/activate",
    operation_id="activateModelVersion",
    summary="Let a version answer to its bare name",
    responses={
        **ANSWERED,
        **problem_answers(
            "unknown-model",
            "model-refused",
            "invalid-parameter",
            "internal-error",
            "not-ready",
            "records-unavailable",
        ),
    },
)
async def activate_model_version(
    caller: AdminCaller, name: Name, version: Version, state: StateDependency
) -> schemas.ActivationAnswer:
    """Load a version from the models folder, prove it, and swap it in between two requests.

    A running request ends with the model that it began with; none fails and none mixes two. A
    version that is refused changes nothing. `rollback` undoes it.
    """
    change, session = await asyncio.to_thread(state.roster.activate, name, version)
    await _audit(state, caller, session)
    return _answer(change, session)


@router.post(
    "/models/{name}/rollback",
    operation_id="rollBackModel",
    summary="Go back to the version that was active before",
    responses={
        **ANSWERED,
        **problem_answers(
            "unknown-model",
            "model-refused",
            "nothing-to-roll-back",
            "invalid-parameter",
            "internal-error",
            "not-ready",
            "records-unavailable",
        ),
    },
)
async def roll_back_model(
    caller: AdminCaller, name: Name, state: StateDependency
) -> schemas.ActivationAnswer:
    """Swap back; a second rollback leads forward again."""
    change, session = await asyncio.to_thread(state.roster.rollback, name)
    await _audit(state, caller, session)
    return _answer(change, session)
