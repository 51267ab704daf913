"""CSV, COCO and GeoJSON of the same annotated nuclei."""

import csv
import io
import uuid
from typing import Any

import numpy as np
import orjson
import pytest
import shapely
from numpy.typing import NDArray
from shapely.geometry import shape

from service.outputs.coco import build_coco
from service.outputs.csv_table import COLUMNS, build_csv, safe_text
from service.outputs.geojson import build_geojson
from service.outputs.identity import ResultIdentity
from service.outputs.rle import decode_rle
from service.segmentation.measurements import Nucleus, measure

RESULT_ID = "0f8c2f1e7b5d4c7f9a3a6a1f3f1f9a10"
IDENTITY = ResultIdentity("S26-1234", "S26-1234-A1", "ORD-778812")


@pytest.fixture(scope="module")
def nuclei(he_labels: NDArray[np.int32]) -> list[Nucleus]:
    return measure(he_labels, np.full(he_labels.shape, 200, np.uint8))


def test_csv_has_a_row_a_nucleus(nuclei: list[Nucleus]) -> None:
    data = build_csv(nuclei, result_id=RESULT_ID, identity=IDENTITY, mpp=0.25).decode()
    assert data.endswith("\r\n")
    assert data.count("\r\n") == data.count("\n") == len(nuclei) + 1
    rows = list(csv.DictReader(io.StringIO(data, newline="")))
    assert tuple(rows[0]) == COLUMNS
    for row, nucleus in zip(rows, nuclei, strict=True):
        assert int(row["nucleus_id"]) == nucleus.id
        assert int(row["area_px"]) == nucleus.area_px
        assert float(row["area_um2"]) == pytest.approx(nucleus.area_px / 16)
        assert float(row["centroid_x_px"]) == pytest.approx(nucleus.centroid_px[0], abs=1e-3)
        assert row["accession"] == "S26-1234"
    unknown = build_csv(nuclei[:1], result_id=RESULT_ID).decode().splitlines()[1].split(",")
    assert unknown[COLUMNS.index("area_um2")] == unknown[COLUMNS.index("accession")] == ""
    assert build_csv([], result_id=RESULT_ID).decode().splitlines() == [",".join(COLUMNS)]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1"])
def test_no_cell_is_a_formula(text: str, nuclei: list[Nucleus]) -> None:
    assert safe_text(text) == f"'{text}"
    data = build_csv(nuclei[:1], result_id=RESULT_ID, identity=ResultIdentity(accession=text))
    row = next(csv.DictReader(io.StringIO(data.decode(), newline="")))
    assert row["accession"] == f"'{text}"
    assert safe_text("S26-1") == "S26-1"


def test_coco_is_a_data_set_of_the_same_masks(
    he_labels: NDArray[np.int32], nuclei: list[Nucleus]
) -> None:
    document = orjson.loads(
        build_coco(
            he_labels,
            nuclei,
            result_id=RESULT_ID,
            created_utc="2026-11-22T12:00:00Z",
            description="test",
            identity=IDENTITY,
        )
    )
    height_px, width_px = he_labels.shape
    assert document["images"] == [
        {"id": 1, "width": width_px, "height": height_px, "file_name": RESULT_ID}
    ]
    assert [category["id"] for category in document["categories"]] == [1]
    assert document["info"]["order_id"] == "ORD-778812"
    assert len({item["id"] for item in document["annotations"]}) == len(nuclei)
    for item, nucleus in zip(document["annotations"], nuclei, strict=True):
        mask = decode_rle(**item["segmentation"])
        assert (mask == (he_labels == nucleus.id)).all()
        assert item["area"] == mask.sum()
        assert item["bbox"] == list(nucleus.bounding_box_px)
        assert 0 <= item["score"] <= 1


def features_of(
    labels: NDArray[np.int32], nuclei: list[Nucleus], **options: Any
) -> list[dict[str, Any]]:
    collection = orjson.loads(build_geojson(labels, nuclei, result_id=RESULT_ID, **options))
    assert collection["type"] == "FeatureCollection"
    features: list[dict[str, Any]] = collection["features"]
    return features


def test_geojson_is_what_qupath_reads(he_labels: NDArray[np.int32], nuclei: list[Nucleus]) -> None:
    features = features_of(he_labels, nuclei, mpp=0.25)
    assert len({uuid.UUID(feature["id"]) for feature in features}) == len(nuclei)
    for feature, nucleus in zip(features, nuclei, strict=True):
        geometry = shape(feature["geometry"])
        assert geometry.is_valid, shapely.is_valid_reason(geometry)
        assert geometry.area == nucleus.area_px
        left, top, width, height = nucleus.bounding_box_px
        assert geometry.bounds == (left, top, left + width, top + height)
        properties = feature["properties"]
        assert properties["objectType"] == "detection"
        assert properties["classification"]["name"] == "Nucleus"
        assert properties["measurements"]["Area um^2"] == nucleus.area_px / 16
    assert features == features_of(he_labels, nuclei, mpp=0.25)


def test_geojson_of_a_region_lies_where_the_region_lies() -> None:
    labels = np.zeros((8, 8), np.int32)
    labels[2:4, 1] = 1
    labels[3, 6] = 2
    nuclei = measure(labels, np.full(labels.shape, 255, np.uint8))
    line, point = features_of(
        labels, nuclei, origin_px=(1000, 2000), downsample=4, object_type="annotation"
    )
    assert shape(line["geometry"]).bounds == (1004, 2008, 1008, 2016)
    assert shape(point["geometry"]).bounds == (1024, 2012, 1028, 2016)
    assert line["properties"]["objectType"] == "annotation"
    assert "Area um^2" not in line["properties"]["measurements"]
