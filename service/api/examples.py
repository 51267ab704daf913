"""The example answers of the OpenAPI document: real ones, their lists of nuclei cut to the first.

The embedded model's answer to tests/data/images/tnbc_p08_2.png with `?include=nuclei&mpp=0.25` and
identifiers; its statement is about the whole list, and its key was thrown away.
`python -m benchmarks.lims_examples` makes it; tests/service/test_default_model.py compares the two.
"""

import json
from importlib import resources
from typing import Any

import numpy as np
import orjson

from service.outputs.csv_table import build_csv
from service.outputs.fhir import build_bundle
from service.outputs.hl7 import build_oru_r01
from service.outputs.report import reported_result
from service.segmentation.measurements import Nucleus

SEGMENTATION_EXAMPLE: dict[str, Any] = json.loads(
    (resources.files("service.api") / "example_answer.json").read_text(encoding="utf-8")
)

_REPORT = reported_result(SEGMENTATION_EXAMPLE)
_FIRST: dict[str, Any] = SEGMENTATION_EXAMPLE["nuclei"][0]

FHIR_EXAMPLE: dict[str, Any] = orjson.loads(build_bundle(_REPORT))
"""The same result as a Bundle."""
HL7_EXAMPLE = build_oru_r01(_REPORT).decode("utf-8")
"""The same result as a message."""
CSV_EXAMPLE = build_csv(
    [
        Nucleus(
            id=_FIRST["id"],
            centroid_px=tuple(_FIRST["centroid_px"]),
            bounding_box_px=tuple(_FIRST["bounding_box_px"]),
            area_px=_FIRST["area_px"],
            contour_px=np.array(_FIRST["contour_px"], np.int32),
            mean_probability=_FIRST["mean_probability"],
        )
    ],
    result_id=_REPORT.id,
    identity=_REPORT.identity,
    mpp=_REPORT.mpp,
).decode("utf-8")
"""Its first nucleus as a table."""
