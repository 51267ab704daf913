"""What waits in the outbox is counted, and shown by kind of destination."""

from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from service.delivery_metrics import DeliveryMetrics
from service.records.database import Database
from service.records.outbox import claim, deliver, give_up, resend
from service.records.outbox_queue import QueueState, queue_state
from service.records.results import NewResult, add_result
from service.records.reviews import Review, add_review


def test_pending_dead_and_oldest(
    database_url: str, tmp_path: Path, new_result: Callable[..., NewResult]
) -> None:
    database = Database.open(database_url, tmp_path, destinations=["lab", "ward"])
    with database.writing() as transaction:
        for _ in range(3):
            add_result(transaction, new_result())
    with database.writing() as transaction:
        first, second, third = claim(transaction, "lab", most=3, lease_s=60.0)
        deliver(transaction, first, "HTTP 200")
        give_up(transaction, second, "HTTP 422")
    with database.reading() as connection:
        assert queue_state(connection, "lab") == QueueState(1, 1, third.queued_utc)
        assert queue_state(connection, "ward").pending == 3
        assert queue_state(connection, "nobody") == QueueState(0, 0, None)
    with database.writing() as transaction:
        give_up(transaction, third, "HTTP 422")
        resend(transaction, second.id, actor="a")
    with database.reading() as connection:
        assert queue_state(connection, "lab").dead == 1
    # What a later version replaced cannot be resent, and is nobody's task.
    with database.writing() as transaction:
        review = Review("accept", "r-1")
        add_review(transaction, third.result_id, review, expected_version=1, actor="key:1")
    with database.reading() as connection:
        assert queue_state(connection, "lab").dead == 0
    database.close()


def test_metrics_are_by_kind_and_begin_at_zero() -> None:
    registry = CollectorRegistry()
    metrics = DeliveryMetrics(registry)
    assert registry.get_sample_value("karyon_deliveries_dead", {"kind": "fhir"}) is None
    metrics.watch({"a": "fhir", "b": "fhir", "c": "senaite"})
    zero = {"kind": "senaite", "outcome": "dead"}
    assert registry.get_sample_value("karyon_delivery_attempts_total", zero) == 0.0
    old, new = "2026-11-22T12:00:00.000Z", "2999-01-01T00:00:00.000Z"
    metrics.outbox_counted(
        {"a": QueueState(2, 1, new), "b": QueueState(3, 4, old), "c": QueueState(0, 0, None)}
    )
    metrics.delivery_attempted("b", "failed")

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"karyon_{name}", labels)

    assert value("deliveries_pending", kind="fhir") == 5.0
    assert value("deliveries_dead", kind="fhir") == 5.0
    assert value("delivery_oldest_pending_age_seconds", kind="senaite") == 0.0
    assert value("delivery_oldest_pending_age_seconds", kind="fhir") != pytest.approx(0.0)
    assert value("delivery_attempts_total", kind="fhir", outcome="failed") == 1.0
    # The oldest of all counts; a clock that was set back gives no negative age.
    metrics.outbox_counted({"a": QueueState(2, 1, new), "b": QueueState(0, 0, None)})
    assert value("delivery_oldest_pending_age_seconds", kind="fhir") == 0.0
