"""What to tell a caller who sent a name that nobody knows: mostly a misspelt one."""

import difflib
from collections.abc import Iterator, Sequence

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import Request


def unknown_name_message(request: Request, location: Sequence[str]) -> str:
    """Return fault and remedy for a parameter or member that the route does not take.

    Args:
        request: The request; its route says which query parameters there are.
        location: `query` or `body`, then the name.
    """
    if location[0] != "query":
        return "Unknown member; remove it, /docs lists those that are known"
    route = request.scope.get("route")
    known = sorted(set(_query_names(route.dependant))) if isinstance(route, APIRoute) else []
    nearest = difflib.get_close_matches(location[-1], known, n=1)
    if nearest:
        return f"Unknown parameter; did you mean {nearest[0]}?"
    return "Unknown parameter; remove it, /docs lists those that are known"


def _query_names(dependant: Dependant) -> Iterator[str]:
    for parameter in dependant.query_params:
        model = parameter.field_info.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            yield from model.model_fields
        else:
            yield parameter.alias
    for dependency in dependant.dependencies:
        yield from _query_names(dependency)
