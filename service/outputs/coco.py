"""The nuclei as a COCO data set of one image, with uncompressed run lengths and scores.

Source: the COCO data format, "object detection"; `score` is that of the results format, so that
`annotations` alone is a valid results file too. `iscrowd` is 0: pycocotools reads run lengths
whatever it says, and 1 would take the nuclei out of every evaluation.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from service.outputs.identity import NO_IDENTITY, ResultIdentity
from service.outputs.rle import encode_label_rles
from service.segmentation.measurements import Nucleus

CATEGORY = {"id": 1, "name": "nucleus", "supercategory": "cell"}


def build_coco(
    labels: NDArray[np.integer[Any]],
    nuclei: Sequence[Nucleus],
    *,
    result_id: str,
    created_utc: str,
    description: str,
    identity: ResultIdentity = NO_IDENTITY,
) -> bytes:
    """Write the data set.

    Args:
        labels: (H, W), 0 background, 1 to n.
        nuclei: The n nuclei in the order of their labels.
        result_id: Identifier of the result; also the image's `file_name`, whose real one is not
            kept.
        created_utc: ISO 8601 time.
        description: What the result may be used for.
        identity: The laboratory's identifiers.

    Returns:
        JSON in UTF-8; `bbox` is left, top, width, height in px.
    """
    height_px, width_px = labels.shape
    run_lengths = encode_label_rles(labels)
    return orjson.dumps(
        {
            "info": {
                "description": description,
                "date_created": created_utc,
                "result_id": result_id,
                "accession": identity.accession,
                "specimen_id": identity.specimen_id,
                "order_id": identity.order_id,
            },
            "licenses": [],
            "images": [{"id": 1, "width": width_px, "height": height_px, "file_name": result_id}],
            "categories": [CATEGORY],
            "annotations": [
                {
                    "id": nucleus.id,
                    "image_id": 1,
                    "category_id": CATEGORY["id"],
                    "segmentation": run_lengths[nucleus.id - 1],
                    "area": nucleus.area_px,
                    "bbox": nucleus.bounding_box_px,
                    "iscrowd": 0,
                    "score": nucleus.mean_probability,
                }
                for nucleus in nuclei
            ],
        }
    )
