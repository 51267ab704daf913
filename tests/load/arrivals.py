"""Open-loop load for Locust: requests leave on a schedule, whether or not earlier ones came back.

A user of Locust waits for its answer before it asks again, `constant_throughput` included: a
server that stalls is asked less, and the stall hides (coordinated omission). Here a user is a
source of arrivals. It never waits for an answer: at each scheduled moment it starts a greenlet of
its own, and the latency counts from the scheduled moment, so that a late start counts too.

    scheduled  |----|------|--|-------|--->      Poisson, or equally spaced
    greenlets  +=====>     +=====>               as many at once as the server is slow
                    +========>
    latency    from the stroke above, not from where the bytes left
"""

import csv
import random
import statistics
import time
from collections import defaultdict
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import gevent
from gevent.pool import Group
from geventhttpclient import HTTPClient
from locust import User, events
from locust.runners import WorkerRunner

Outcome = Literal["answered", "refused", "too late", "error"]
NETWORK_TIMEOUT_S = 120.0
UNFINISHED_WAIT_S = 60.0
# More at once than any queue of the service holds: the generator must never be the one that waits.
MOST_CONNECTIONS = 10_000


@dataclass(frozen=True, slots=True)
class Sample:
    """One request.

    Attributes:
        name: What was asked.
        scheduled_s: When it was due, Unix time.
        start_lag_ms: How much later it really started; large values mean that the generator, not
            the server, was short of processor time.
        latency_ms: From due to the last byte of the answer.
        status: HTTP status, 0 where there was no answer.
        outcome: `answered` as expected; `refused` by 503 or 429 with a Retry-After; `too late` by
            504; else `error`.
        retry_after_s: The Retry-After of a refusal, else 0.
    """

    name: str
    scheduled_s: float
    start_lag_ms: float
    latency_ms: float
    status: int
    outcome: Outcome
    retry_after_s: int


SAMPLES: list[Sample] = []
_UNDER_WAY = Group()


def judge(status: int, expected: int, retry_after: str | None) -> Outcome:
    """Say what an answer means for the laboratory that asked.

    Args:
        status: HTTP status, 0 where there was none.
        expected: The status of success: 200, or the right refusal of a bad image.
        retry_after: The Retry-After header.
    """
    if status == expected:
        return "answered"
    if status in (503, 429) and (retry_after or "").isdecimal():
        return "refused"
    return "too late" if status == 504 else "error"


class ArrivalUser(User):
    """A source of arrivals: `--rate-per-user` of them a second, each in a greenlet of its own."""

    abstract = True

    def on_start(self) -> None:
        """Begin the schedule now."""
        options = self.environment.parsed_options
        self._rate_per_s: float = options.rate_per_user if options else 1.0
        self._poisson = options is None or options.spacing == "poisson"
        self._random = random.Random()
        self._client = HTTPClient.from_url(
            self.host or self.environment.host,
            concurrency=MOST_CONNECTIONS,
            connection_timeout=NETWORK_TIMEOUT_S,
            network_timeout=NETWORK_TIMEOUT_S,
        )
        self._due_s = time.time()

    def wait_time(self) -> float:
        """Move the schedule on, and return the seconds until then; 0 when it is past."""
        gap_s = 1.0 / self._rate_per_s
        self._due_s += self._random.expovariate(self._rate_per_s) if self._poisson else gap_s
        return max(0.0, self._due_s - time.time())

    def send(
        self,
        name: str,
        path: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        *,
        expected: int = 200,
    ) -> None:
        """Send what is due now, and return at once.

        Args:
            name: Under which it is reported.
            path: Path and query.
            body: Sent by POST; without one it is a GET.
            headers: Request headers.
            expected: The status of success.
        """
        greenlet = gevent.Greenlet(
            self._exchange, name, path, body, headers or {}, expected, self._due_s
        )
        _UNDER_WAY.add(greenlet)
        greenlet.start()

    def _exchange(
        self,
        name: str,
        path: str,
        body: bytes,
        headers: dict[str, str],
        expected: int,
        due_s: float,
    ) -> None:
        start_lag_ms = (time.time() - due_s) * 1000.0
        method = "POST" if body else "GET"
        status, length, retry_after, failure = 0, 0, None, None
        try:
            answer = self._client.request(method, path, body=body, headers=headers)
            status, retry_after = answer.status_code, answer.get("retry-after")
            length = len(answer.read())
        except Exception as error:  # noqa: BLE001  whatever goes wrong is one failed request
            failure = error
        outcome = "error" if failure else judge(status, expected, retry_after)
        latency_ms = (time.time() - due_s) * 1000.0
        retry_after_s = int(retry_after) if outcome == "refused" and retry_after else 0
        SAMPLES.append(
            Sample(name, due_s, start_lag_ms, latency_ms, status, outcome, retry_after_s)
        )
        if outcome == "error" and failure is None:
            failure = RuntimeError(f"{status} instead of {expected}")
        self.environment.events.request.fire(
            request_type=method,
            name=name if outcome in ("answered", "error") else f"{name} ({outcome})",
            response_time=latency_ms,
            response_length=length,
            exception=failure,
            context={},
        )


@events.init_command_line_parser.add_listener
def _add_options(parser: Any) -> None:
    parser.add_argument(
        "--rate-per-user",
        type=float,
        default=1.0,
        help="Arrivals a second of one user; -u times this is the offered load.",
    )
    parser.add_argument("--spacing", choices=["poisson", "constant"], default="poisson")
    parser.add_argument(
        "--samples", type=Path, default=None, help="CSV file for every single request."
    )


@events.test_start.add_listener
def _forget(**_: Any) -> None:
    SAMPLES.clear()


@events.test_stop.add_listener
def _wait_for_the_rest(**_: Any) -> None:
    """Wait for what is under way: the slowest answers are the ones that matter."""
    _UNDER_WAY.join(timeout=UNFINISHED_WAIT_S)


@events.quitting.add_listener
def _report(environment: Any, **_: Any) -> None:
    if isinstance(environment.runner, WorkerRunner) or not SAMPLES:
        return
    print(summary(SAMPLES, unfinished=len(_UNDER_WAY)))
    path: Path | None = environment.parsed_options.samples
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([field.name for field in fields(Sample)])
            writer.writerows(astuple(sample) for sample in SAMPLES)


def percentile_ms(values: list[float], percent: int) -> float:
    """Return a percentile by linear interpolation; of one value, that value."""
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def summary(samples: list[Sample], *, unfinished: int = 0) -> str:
    """Return the table: latency of what was answered, and apart from it all that was not.

    Args:
        samples: At least one.
        unfinished: Requests that had no answer when the test gave up waiting.
    """
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.name].append(sample)
    figures = f"{'sent':>7}{'answered':>10}{'p50':>9}{'p99':>9}{'max':>9}"
    lines = [
        "",
        "Latency in ms from the scheduled arrival, of what was answered:",
        f"{'request':<24}{figures}{'refused':>9}{'too late':>10}{'errors':>8}",
    ]
    for name, group in [*sorted(groups.items()), ("all", samples)]:
        counts = {
            outcome: sum(sample.outcome == outcome for sample in group)
            for outcome in ("answered", "refused", "too late", "error")
        }
        times = [sample.latency_ms for sample in group if sample.outcome == "answered"]
        shown = f"{'-':>9}" * 3
        if times:
            figures_ms = (percentile_ms(times, 50), percentile_ms(times, 99), max(times))
            shown = "".join(f"{value:>9.0f}" for value in figures_ms)
        lines.append(
            f"{name:<24}{len(group):>7}{counts['answered']:>10}{shown}"
            f"{counts['refused']:>9}{counts['too late']:>10}{counts['error']:>8}"
        )
    lag_ms = percentile_ms([sample.start_lag_ms for sample in samples], 99)
    lines.append(
        f"The generator started late by {lag_ms:.0f} ms at p99; {unfinished} unfinished at the end."
    )
    return "\n".join(lines)
