"""The nuclei as GeoJSON, as QuPath 0.4 and later read it (File, Import objects from file).

QuPath takes coordinates as pixels of the full-resolution image, origin at the top-left corner of
its first pixel; `properties.objectType` decides between a detection (light, for thousands of
nuclei) and an annotation (editable by hand); the geometry is checked for validity on import.
Source: RFC 7946; QuPath's documentation, "Exporting annotations", GeoJSON. Coordinates of an image
are no longitudes: readers of maps have no use for this file.
"""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from service.outputs.polygons import Polygon, trace_polygons
from service.segmentation.measurements import Nucleus

ObjectType = Literal["detection", "annotation"]
# Haematoxylin's complement on a screen: seen on every stain.
CLASSIFICATION = {"name": "Nucleus", "color": [0, 255, 0]}


def build_geojson(
    labels: NDArray[np.integer[Any]],
    nuclei: Sequence[Nucleus],
    *,
    result_id: str,
    mpp: float | None = None,
    properties: Mapping[str, Any] | None = None,
    object_type: ObjectType = "detection",
    origin_px: tuple[int, int] = (0, 0),
    downsample: int = 1,
) -> bytes:
    """Write a FeatureCollection, one feature a nucleus.

    Args:
        labels: (H, W), 0 background, 1 to n.
        nuclei: The nuclei of the labels.
        result_id: UUID of the result; the features' own UUIDs follow from it and their numbers.
        mpp: Micrometres a pixel of the labels; None leaves areas in um2 out.
        properties: What the collection says about itself, in the foreign member `karyon`.
        object_type: What QuPath makes of a feature.
        origin_px: (x, y) of the first pixel in the full-resolution image.
        downsample: Pixels of the full-resolution image a pixel of the labels, along one side.

    Returns:
        JSON in UTF-8. A nucleus of several parts is a MultiPolygon.
    """
    polygons = trace_polygons(labels)
    features = [
        {
            "type": "Feature",
            "id": str(uuid.uuid5(uuid.UUID(result_id), f"nucleus/{nucleus.id}")),
            "geometry": _geometry(polygons[nucleus.id], origin_px, downsample),
            "properties": {
                "objectType": object_type,
                "name": f"Nucleus {nucleus.id}",
                "classification": CLASSIFICATION,
                "measurements": _measurements(nucleus, mpp),
            },
        }
        for nucleus in nuclei
    ]
    collection: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if properties is not None:
        collection["karyon"] = dict(properties)
    return orjson.dumps(collection)


def _measurements(nucleus: Nucleus, mpp: float | None) -> dict[str, float]:
    measurements: dict[str, float] = {
        "Nucleus number": nucleus.id,
        "Area px^2": nucleus.area_px,
        "Mean probability": round(nucleus.mean_probability, 4),
    }
    if mpp is not None:
        measurements["Area um^2"] = round(nucleus.area_px * mpp * mpp, 4)
    return measurements


def _geometry(
    polygons: list[Polygon], origin_px: tuple[int, int], downsample: int
) -> dict[str, Any]:
    left, top = origin_px
    placed = [
        [[(left + downsample * x, top + downsample * y) for x, y in ring] for ring in polygon]
        for polygon in polygons
    ]
    if len(placed) == 1:
        return {"type": "Polygon", "coordinates": placed[0]}
    return {"type": "MultiPolygon", "coordinates": placed}
