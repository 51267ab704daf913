"""One example request for each operation, written into the OpenAPI document.

A documented parameter that carries `example` takes part in the example request of its operation,
and the body's example is sent with it. The reference in the docs is rendered from these examples in
four languages, and tests/service/client/test_api_examples.py sends each of them, so they cannot
drift.
"""

from typing import Any, Final

EXAMPLE_IMAGE: Final = "tile.png"
"""Stands for the bytes of a file of that name, wherever an example holds binary data."""

_PARAMETERS: Final[dict[str, dict[str, str | int | float]]] = {
    "segmentImage": {"mpp": 0.25},
    "getModel": {"name": "efficientnetv2b0_unet"},
    "activateModelVersion": {"name": "efficientnetv2b0_unet", "version": "1.1.0"},
    "rollBackModel": {"name": "efficientnetv2b0_unet"},
    "listResults": {"accession": "S26-1234", "limit": 5},
    "reviewResult": {"if-match": '"1"'},
    "listDeliveries": {"limit": 5},
    "exportAudit": {"after": 0},
    "getProblemType": {"name": "overloaded"},
}
"""By operation; a required parameter that is not named here has an example in its schema."""


def document_example_requests(document: dict[str, Any]) -> None:
    """Give the parameters of the example requests their `example`.

    Args:
        document: The OpenAPI document; changed in place.
    """
    for operations in document["paths"].values():
        for operation in operations.values():
            chosen = _PARAMETERS.get(operation["operationId"], {})
            for parameter in operation.get("parameters", ()):
                name = parameter["name"]
                if name in chosen:
                    parameter["example"] = chosen[name]
                elif parameter["required"] and "examples" in parameter["schema"]:
                    parameter["example"] = parameter["schema"]["examples"][0]
