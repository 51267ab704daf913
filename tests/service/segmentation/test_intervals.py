import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.segmentation.intervals import CountInterval, interval_of_count


def interval(
    count: int, lower_ratio: float, upper_ratio: float, allowance: float = 0.0
) -> tuple[int, int]:
    found = interval_of_count(
        count,
        lower_ratio=lower_ratio,
        upper_ratio=upper_ratio,
        allowance=allowance,
        level=0.9,
        method="drawn",
    )
    return found.lower, found.upper


@pytest.mark.parametrize(
    ("count", "ratios", "allowance", "expected"),
    [
        (100, (0.8, 1.25), 0.0, (80, 125)),
        # 1.1 x 10 is 11.000000000000002 in binary, and still eleven nuclei.
        (10, (0.7, 1.1), 0.0, (7, 11)),
        (33, (0.8, 1.2), 0.0, (26, 40)),
        (0, (0.8, 1.2), 0.0, (0, 0)),
        (0, (0.8, 1.2), 2.0, (0, 2)),
        (3, (0.8, 1.2), 2.5, (0, 7)),
        (50, (0.8, 1.2), 2.5, (37, 63)),
    ],
)
def test_ends_are_rounded_outward_and_never_negative(
    count: int, ratios: tuple[float, float], allowance: float, expected: tuple[int, int]
) -> None:
    assert interval(count, *ratios, allowance) == expected


def test_level_and_method_are_passed_on() -> None:
    assert interval_of_count(
        10, lower_ratio=1, upper_ratio=1, allowance=1, level=0.8, method="m"
    ) == CountInterval(9, 11, 0.8, "m")


@given(
    count=st.integers(0, 10**7),
    ends=st.tuples(st.floats(0, 4), st.floats(0, 4)).map(sorted),
    allowance=st.floats(0, 100),
)
def test_the_count_lies_within(count: int, ends: list[float], allowance: float) -> None:
    """Also where both ratios are on one side of 1: an answer must not contradict itself."""
    lower, upper = interval(count, *ends, allowance)
    assert 0 <= lower <= count <= upper
