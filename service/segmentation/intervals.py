"""The interval of a count: from how far counts were off on patients that a model never saw."""

import math
from dataclasses import dataclass

_DECIMALS = 9
"""Beyond these a product of decimal fractions is rounding error, and no reason for one nucleus."""


@dataclass(frozen=True, slots=True)
class CountInterval:
    """Where the count of a careful annotator is expected.

    Attributes:
        lower: Least nuclei, at least 0, never above the count.
        upper: Most nuclei, never below the count.
        level: Share of images whose annotated count is expected within, 0..1.
        method: How the interval was found.
    """

    lower: int
    upper: int
    level: float
    method: str


def interval_of_count(
    count: int,
    *,
    lower_ratio: float,
    upper_ratio: float,
    allowance: float,
    level: float,
    method: str,
) -> CountInterval:
    """Work out the interval of one count, rounded outward to whole nuclei.

        lower = lower_ratio x count - allowance          upper = upper_ratio x count + allowance

    Args:
        count: Nuclei found, not negative.
        lower_ratio: Lower end divided by the count.
        upper_ratio: Upper end divided by the count.
        allowance: Nuclei by which both ends move outward besides.
        level: Nominal coverage, 0..1.
        method: How the numbers above were found.
    """
    lower = math.floor(round(lower_ratio * count - allowance, _DECIMALS))
    upper = math.ceil(round(upper_ratio * count + allowance, _DECIMALS))
    return CountInterval(max(0, min(lower, count)), max(upper, count), level, method)
