"""GET /models and /models/{name}: what is loaded, and the contract each file carries."""

from fastapi import APIRouter
from starlette.responses import Response

from service.api import schemas
from service.api.auth import SegmentCaller
from service.api.documentation import ANSWERED, REQUEST_ID_HEADER, problem_answers
from service.api.state import ServiceState, StateDependency
from service.inference.session import ModelSession

router = APIRouter(tags=["models"])


def _summary(session: ModelSession, state: ServiceState) -> dict[str, object]:
    contract = session.contract
    return {
        "name": contract.name,
        "version": contract.version,
        "digest": session.digest,
        "default": session is state.repository.get(None),
        "architecture": contract.architecture,
        "description": contract.description,
        "active": session is state.repository.get(contract.name),
        "provider": session.provider,
        "precision": session.precision,
        "mpp": contract.input.mpp,
    }


@router.get(
    "/models",
    operation_id="listModels",
    summary="List the loaded models",
    responses={**ANSWERED, **problem_answers("internal-error", "not-ready", "records-unavailable")},
)
async def list_models(_caller: SegmentCaller, state: StateDependency) -> schemas.ModelList:
    """All models that a request can name, and the one that it gets when it names none."""
    return schemas.ModelList(
        default=state.repository.get(None).contract.name,
        models=[
            schemas.ModelSummary.model_validate(_summary(session, state))
            for session in state.repository.all()
        ],
    )


@router.get(
    "/models/{name}",
    operation_id="getModel",
    summary="Describe a model",
    # The contract is serialised by pydantic at once; FastAPI would validate it a second time.
    response_class=Response,
    responses={
        200: {
            "description": "The model with its whole contract.",
            "headers": REQUEST_ID_HEADER,
            "content": {
                "application/json": {
                    "schema": {"$ref": f"#/components/schemas/{schemas.ModelDetail.__name__}"}
                }
            },
        },
        **problem_answers("unknown-model", "internal-error", "not-ready", "records-unavailable"),
    },
)
async def get_model(_caller: SegmentCaller, name: str, state: StateDependency) -> Response:
    """The contract of a model: tensors, thresholds, training data and licences, metrics.

    `name` is a name, for its active version, or `name:version`.
    """
    session = state.repository.get(name)
    detail = schemas.ModelDetail.model_validate(
        {**_summary(session, state), "contract": session.contract}
    )
    return Response(detail.model_dump_json(), media_type="application/json")
