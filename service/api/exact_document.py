"""What FastAPI and pydantic leave loose in an OpenAPI document, made exact."""

from collections.abc import Sequence
from typing import Any

from fastapi.routing import APIRoute, iter_route_contexts
from starlette.routing import BaseRoute


def drop_null(document: dict[str, Any]) -> None:
    """Drop the `null` of optional parameters: a query string has no way to say it.

    Args:
        document: The OpenAPI document; changed in place.
    """
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = _without_null(parameter["schema"])


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    choices: list[dict[str, Any]] = [
        choice for choice in schema.get("anyOf", ()) if choice.get("type") != "null"
    ]
    if len(choices) != 1:
        return schema
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    return choices[0] | rest


def restore_examples(document: dict[str, Any], routes: Sequence[BaseRoute]) -> None:
    """Put the example answers back as they were written: FastAPI drops their null members.

    Args:
        document: The OpenAPI document; changed in place.
        routes: The routes that it describes.
    """
    for context in iter_route_contexts(routes):
        route = context.original_route
        if not isinstance(route, APIRoute):
            continue
        for method in route.methods or ():
            operation = document["paths"].get(route.path_format, {}).get(method.lower())
            if operation is None:
                continue
            for status, written in route.responses.items():
                for media_type, content in written.get("content", {}).items():
                    if "example" in content:
                        shown = operation["responses"][str(status)]["content"][media_type]
                        shown["example"] = content["example"]


def say_items(node: object) -> None:
    """Write every tuple of one kind as an array of that kind, its length bounded as before.

    pydantic lists the members in `prefixItems` and says nothing of `items`, which linters and
    generators of code take for an array of anything.

    Args:
        node: The document, or a part of it; changed in place.
    """
    if isinstance(node, dict):
        members = node.get("prefixItems")
        if isinstance(members, list) and all(member == members[0] for member in members):
            node["items"] = members[0]
            del node["prefixItems"]
        for value in node.values():
            say_items(value)
    elif isinstance(node, list):
        for value in node:
            say_items(value)
