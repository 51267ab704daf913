import dataclasses
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from service.outputs.report import (
    CountInterval,
    ReportedResult,
    Review,
    amended_result,
    reported_result,
)


def test_a_stored_document_gives_the_same_report(any_document: dict[str, Any]) -> None:
    assert reported_result(orjson.loads(orjson.dumps(any_document))) == reported_result(
        any_document
    )


def test_every_figure_is_read(result_document: Callable[..., dict[str, Any]]) -> None:
    interval = {"lower": 118, "upper": 145, "level": 0.9, "method": "quantiles"}
    review = {"reviewer": "a", "reason": "b", "time_utc": "2026-11-23T08:15:00.250Z"}
    document = result_document(
        count_interval=interval, precision="int8", review=review, status="final"
    )
    report = reported_result(document)
    assert report.count == document["count"]
    assert report.count_interval == CountInterval(118, 145, 0.9, "quantiles")
    assert report.review == Review("a", "b", review["time_utc"])
    assert report.changed_utc == review["time_utc"]
    assert report.precision == "int8"
    assert report.identity.order_id == "ORD-778812"
    assert report.thresholds.probability == document["parameters"]["threshold"]
    assert [flag.name for flag in report.flags] == [
        flag["name"] for flag in document["quality"]["flags"]
    ]
    read = {field.name for field in dataclasses.fields(ReportedResult)}
    assert {"model_digest", "input_sha256", "pixel_sha256", "mpp_source", "provider"} <= read


def test_a_review_changes_what_it_must(result_document: Callable[..., dict[str, Any]]) -> None:
    interval = {"lower": 118, "upper": 145, "level": 0.9, "method": "quantiles"}
    made = reported_result(result_document(count_interval=interval))
    review = Review("dr.x", None, "2026-11-23T08:15:00Z")
    accepted = amended_result(made, status="final", review=review)
    assert dataclasses.replace(accepted, status="preliminary", review=None) == made
    assert accepted.comments[-1] == "Final by dr.x"
    edited = amended_result(made, status="corrected", review=review, count=2 * made.count)
    assert (edited.count, edited.count_interval) == (2 * made.count, None)
    assert made.density_per_mm2 is not None
    assert edited.density_per_mm2 == pytest.approx(2 * made.density_per_mm2)
    unknown = reported_result(result_document(density_per_mm2=None))
    counted = amended_result(unknown, status="corrected", review=review, count=1)
    assert counted.density_per_mm2 is None


def test_a_hole_in_the_document_is_named(result_document: Callable[..., dict[str, Any]]) -> None:
    document = result_document()
    del document["image"]["pixel_sha256"]
    with pytest.raises(ValueError, match="pixel_sha256"):
        reported_result(document)
    with pytest.raises(ValueError, match="withdrawn"):
        reported_result(result_document(status="withdrawn"))
