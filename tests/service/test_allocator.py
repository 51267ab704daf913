"""The allocator keeps what a tile needs, and leaves who set it up otherwise alone."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import numpy as np
from service.allocator import settle_allocator
print(settle_allocator())
held = [np.ones(2 << 20, np.uint8) for _ in range(3)]
del held
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    np.ones(2 << 20, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 50 * (2 << 20) // 4096

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="another C library has no mallopt"
)


def run(**variables: str) -> tuple[bool, int]:
    """Return whether the allocator was set up, and the page faults of fifty arrays."""
    environment = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    printed = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return printed[0] == "True", int(printed[1])


def test_arrays_of_a_tile_are_not_asked_of_the_system_each_time() -> None:
    settled, faults = run()
    assert settled
    assert faults < PAGES / 10


def test_the_operators_own_settings_stay() -> None:
    settled, faults = run(MALLOC_MMAP_THRESHOLD_="65536")
    assert not settled
    assert faults > PAGES / 2
