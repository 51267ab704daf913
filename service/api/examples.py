"""The example answer of the OpenAPI document: a real one, its list of nuclei cut to the first.

The embedded model's answer to tests/data/images/tnbc_p08_2.png with `?include=nuclei&mpp=0.25` and
identifiers; its statement is about the whole list, and its key was thrown away.
tests/service/test_default_model.py compares the two.
"""

import json
from importlib import resources
from typing import Any

SEGMENTATION_EXAMPLE: dict[str, Any] = json.loads(
    (resources.files("service.api") / "example_answer.json").read_text(encoding="utf-8")
)
