"""Bound buffers, on the CPU: the same calls that a GPU gets."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import FatalProviderError
from service.inference.binding import BoundRunner
from service.inference.providers import CPU_PROVIDER, create_session
from service.inference.session import ModelSession


@pytest.fixture
def session(tiny_model_path: Path) -> Any:
    return create_session(tiny_model_path.read_bytes(), [CPU_PROVIDER], 1)


def test_bound_runs_equal_plain_runs(
    session: Any, tiny_model_path: Path, he_pixels: NDArray[np.uint8]
) -> None:
    plain = ModelSession.load(tiny_model_path, provider="cpu", threads=1)
    bound = BoundRunner(session, 2, device="cpu", device_id=0)
    first = bound.run(he_pixels[None, :64, :96])
    kept = first.copy()
    second = bound.run(he_pixels[None, 64:128, :96])
    assert np.array_equal(first, kept), "the second run wrote over the first result"
    assert np.array_equal(first, plain.run(he_pixels[None, :64, :96]))
    assert np.array_equal(second, plain.run(he_pixels[None, 64:128, :96]))
    assert bound.shapes == [(1, 64, 96, 3)]


def test_threads_do_not_share_a_buffer(session: Any, he_pixels: NDArray[np.uint8]) -> None:
    bound = BoundRunner(session, 2, device="cpu", device_id=0)
    tiles = [np.ascontiguousarray(np.roll(he_pixels[:64, :64], 8 * i, 0))[None] for i in range(8)]
    alone = [bound.run(tile) for tile in tiles]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(bound.run, tiles * 5))
    assert all(np.array_equal(maps, alone[i % 8]) for i, maps in enumerate(together))


def test_buffers_of_old_shapes_are_given_back(session: Any) -> None:
    bound = BoundRunner(session, 2, device="cpu", device_id=0)
    for side in range(1, 21):
        bound.run(np.zeros((1, 32, 32 * side, 3), np.uint8))
    assert len(bound.shapes) == 16
    assert (1, 32, 640, 3) in bound.shapes
    assert (1, 32, 32, 3) not in bound.shapes


class LostDevice:
    """What a GPU's runner does once its context is gone."""

    def __init__(self, message: str) -> None:
        self.message = message

    def run(self, _: Any) -> Any:
        raise RuntimeError(self.message)


@pytest.mark.parametrize(
    ("message", "fatal"),
    [
        ("CUDA failure 700: an illegal memory access was encountered ; GPU=0", True),
        ("CUDA failure 719: unspecified launch failure", True),
        ("CUDA error cudaErrorIllegalAddress:an illegal memory access", True),
        ("CUDA failure 2: out of memory ; GPU=0", False),
        ("Failed to allocate memory for requested buffer of size 700", False),
        ("CUDA failure 1: invalid argument", False),
    ],
)
def test_a_lost_device_ends_the_process_and_a_full_one_does_not(
    tiny_model_path: Path, message: str, fatal: bool
) -> None:
    session = ModelSession.load(tiny_model_path, provider="cpu", threads=1)
    session._bound = LostDevice(message)  # type: ignore[assignment]  # stands in for a GPU
    told: list[FatalProviderError] = []
    session.on_fatal = told.append
    with pytest.raises(FatalProviderError if fatal else RuntimeError) as caught:
        session.run(np.zeros((1, 32, 32, 3), np.uint8))
    assert told == ([caught.value] if fatal else [])
