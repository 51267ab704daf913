"""What operators see of the deliveries, by kind of destination: few labels, nothing of a result."""

import datetime as dt
from collections import defaultdict
from collections.abc import Mapping
from typing import Final, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge

from service.records.outbox_queue import AttemptOutcome, QueueState

_OUTCOMES: Final[tuple[AttemptOutcome, ...]] = get_args(AttemptOutcome)


class DeliveryMetrics:
    """The delivery metrics of one application.

    Names of destinations are the laboratory's own, and may be many; kinds are four.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Take a registry; nothing is exposed before `watch`."""
        self._attempts = Counter(
            "karyon_delivery_attempts_total",
            "Attempts to deliver: delivered, failed (made again later), dead (given up).",
            ["kind", "outcome"],
            registry=registry,
        )
        self._pending = Gauge(
            "karyon_deliveries_pending",
            "Deliveries that are on their way or wait for another attempt.",
            ["kind"],
            registry=registry,
        )
        self._dead = Gauge(
            "karyon_deliveries_dead",
            "Deliveries that were given up and not resent.",
            ["kind"],
            registry=registry,
        )
        self._oldest = Gauge(
            "karyon_delivery_oldest_pending_age_seconds",
            "Time since the oldest pending delivery was queued; 0 without any.",
            ["kind"],
            registry=registry,
        )
        self._kinds: dict[str, str] = {}

    def watch(self, kinds: Mapping[str, str]) -> None:
        """Take the kinds of the destinations by their names, and show zeros for each."""
        self._kinds = dict(kinds)
        for kind in self._kinds.values():
            for gauge in (self._pending, self._dead, self._oldest):
                gauge.labels(kind).set(0)
            for outcome in _OUTCOMES:
                self._attempts.labels(kind, outcome)

    def delivery_attempted(self, destination: str, outcome: AttemptOutcome) -> None:
        """Count an attempt."""
        self._attempts.labels(self._kinds[destination], outcome).inc()

    def outbox_counted(self, queues: Mapping[str, QueueState]) -> None:
        """Show what has not reached the destinations, by their names."""
        now = dt.datetime.now(dt.UTC)
        of_kind: defaultdict[str, list[QueueState]] = defaultdict(list)
        for destination, queue in queues.items():
            of_kind[self._kinds[destination]].append(queue)
        for kind, members in of_kind.items():
            self._pending.labels(kind).set(sum(queue.pending for queue in members))
            self._dead.labels(kind).set(sum(queue.dead for queue in members))
            queued = [q.oldest_queued_utc for q in members if q.oldest_queued_utc is not None]
            age = now - dt.datetime.fromisoformat(min(queued)) if queued else dt.timedelta()
            self._oldest.labels(kind).set(max(0.0, age.total_seconds()))
