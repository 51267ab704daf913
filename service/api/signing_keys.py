"""GET /.well-known/karyon-keys.json: the public keys that results are verified with."""

from typing import Any

from fastapi import APIRouter

from service.api.documentation import ANSWERED, problem_answers
from service.api.provenance_schemas import SigningKeys
from service.api.state import StateDependency

router = APIRouter(tags=["provenance"])


@router.get(
    "/.well-known/karyon-keys.json",
    operation_id="getSigningKeys",
    summary="The public keys of signed results",
    response_model=SigningKeys,
    response_model_exclude_none=True,
    responses={**ANSWERED, **problem_answers("internal-error", "not-ready")},
)
async def get_signing_keys(state: StateDependency) -> dict[str, Any]:
    """A JSON Web Key Set: the key that signs now, and every one that did before it.

    Keep a copy where results are kept: `python -m service verify RESULT.json --key FILE` then needs
    no service.
    """
    return state.keyring.to_jwks()
