"""How long the carrier is patient."""

from service.jobs.carrier import Patience
from service.records.times import utc_after


def test_waits_double_with_jitter_and_respect_what_is_asked() -> None:
    patience = Patience(first_retry_s=4.0)
    assert all(3.0 <= patience.wait_s(1, None) <= 5.0 for _ in range(100))
    assert all(24.0 <= patience.wait_s(4, None) <= 40.0 for _ in range(100))
    assert len({patience.wait_s(1, None) for _ in range(20)}) > 1
    assert patience.wait_s(1000, None) <= 1.25 * 6 * 3600
    assert patience.wait_s(1, 600.0) == 600.0
    assert patience.wait_s(1, 1e9) == 86_400.0


def test_it_gives_up_after_days() -> None:
    patience = Patience(give_up_days=2.0)
    assert not patience.is_over(utc_after(-1.9 * 86_400))
    assert patience.is_over(utc_after(-2.1 * 86_400))
