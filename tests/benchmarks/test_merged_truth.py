"""Which outlines are in truth merged."""

import numpy as np
import pytest

from benchmarks.merged_nuclei import truly_merged


def test_an_outline_over_two_nuclei_is_merged_and_one_that_grazes_another_is_not() -> None:
    truth = np.zeros((10, 30), dtype=np.int32)
    truth[:, 0:5], truth[:, 5:10], truth[:, 15:20], truth[:, 20:30] = 1, 2, 3, 4
    found = np.zeros_like(truth)
    found[:, 0:10] = 1
    found[:, 15:22] = 2
    found[:, 24:30] = 3
    assert truly_merged(truth, found) == pytest.approx(1 / 3)
    assert truly_merged(truth, np.zeros_like(truth)) == 0
    assert truly_merged(np.zeros_like(truth), found) == 0
