import pytest
from starlette.requests import Request

from service.api.quota import ANONYMOUS_ID, CallerQuota, quota_key
from service.errors import QuotaExceededError


def test_a_window_fills_and_ends() -> None:
    quota = CallerQuota(2)
    first = quota.take("a", 100.0)
    assert first is not None
    assert (first.limit, first.remaining, first.reset_s) == (2, 1, 60)
    second = quota.take("a", 130.5)
    assert second is not None
    assert (second.remaining, second.reset_s) == (0, 30)
    with pytest.raises(QuotaExceededError) as refused:
        quota.take("a", 155.0)
    assert refused.value.retry_after_s == 5
    again = quota.take("a", 160.0)
    assert again is not None
    assert again.remaining == 1


def test_callers_have_quotas_of_their_own() -> None:
    quota = CallerQuota(1)
    quota.take("a", 0.0)
    quota.take("b", 0.0)
    for caller in ("a", "b"):
        with pytest.raises(QuotaExceededError):
            quota.take(caller, 1.0)


def test_no_quota_counts_nobody() -> None:
    quota = CallerQuota(0)
    assert all(quota.take("a", 0.0) is None for _ in range(1000))


def test_a_flood_of_callers_is_forgotten_longest_idle_first() -> None:
    quota = CallerQuota(1)
    quota.take("first", 0.0)
    for number in range(10_000):
        quota.take(str(number), 0.0)
    assert quota.take("first", 0.0) is not None
    with pytest.raises(QuotaExceededError):
        quota.take("9999", 0.0)


def test_who_logged_in_has_a_quota_and_everybody_else_shares_that_of_an_address() -> None:
    request = Request({"type": "http", "client": ("192.0.2.7", 40000), "headers": []})
    assert quota_key("key:ab12", request) == "key:ab12"
    assert quota_key(ANONYMOUS_ID, request) == "address:192.0.2.7"
