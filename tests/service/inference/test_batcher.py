"""The engine: results independent of batching, order, refusal, and what is dropped."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.errors import ClientGoneError, DeadlineExceededError, NotReadyError
from service.inference.batcher import TileBatcher
from service.inference.runner import Tiles
from service.inference.session import ModelSession
from service.inference.ticket import Ticket
from service.segmenter import Segmenter


class Recorder:
    """Counts what the engine tells."""

    def __init__(self) -> None:
        self.queued = 0
        self.batches: list[int] = []

    def tiles_queued(self, change: int) -> None:
        self.queued += change

    def batch_ran(self, tiles: int, duration_s: float) -> None:
        assert duration_s >= 0
        self.batches.append(tiles)


class GatedSession:
    """A model that inverts pixels, and can be held to let a queue build up behind it."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.shapes: list[tuple[int, ...]] = []

    def run(self, tiles: Tiles) -> Tiles:
        self.entered.set()
        assert self.gate.wait(20)
        self.shapes.append(tiles.shape)
        if (tiles == 13).any():
            raise ZeroDivisionError
        return 255 - tiles[..., :2]


def tiles_of(value: int, count: int = 1, side: int = 4) -> Tiles:
    return np.full((count, side, side, 3), value, dtype=np.uint8)


@pytest.fixture
def gated() -> GatedSession:
    return GatedSession()


@pytest.fixture(scope="module")
def tiny_session(tiny_model_path: Path) -> ModelSession:
    return ModelSession.load(tiny_model_path, provider="cpu", threads=1)


def collect(batcher: TileBatcher, chunks: list[Tiles], ticket: Ticket | None = None) -> list[Tiles]:
    return list(batcher.stream(iter(chunks), ticket or Ticket()))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    requests=st.lists(
        st.lists(st.tuples(st.integers(1, 5), st.sampled_from([4, 8])), min_size=1, max_size=4),
        min_size=1,
        max_size=6,
    ),
    lanes=st.integers(1, 3),
    elastic=st.booleans(),
    max_batch_tiles=st.integers(1, 6),
    delay_s=st.sampled_from([0.0, 0.002]),
)
def test_each_request_gets_its_own_maps_whatever_shares_the_batch(
    requests: list[list[tuple[int, int]]],
    lanes: int,
    elastic: bool,
    max_batch_tiles: int,
    delay_s: float,
) -> None:
    session, recorder = GatedSession(), Recorder()
    batcher = TileBatcher(
        session,
        observer=recorder,
        lanes=lanes,
        max_batch_tiles=max_batch_tiles,
        delay_s=delay_s,
        run_alone=session.run if elastic else None,
    )
    generator = np.random.default_rng(0)
    sent = [
        [generator.integers(14, 255, (n, side, side, 3), dtype=np.uint8) for n, side in chunks]
        for chunks in requests
    ]
    with ThreadPoolExecutor(len(sent)) as pool:
        answers = list(pool.map(lambda chunks: collect(batcher, chunks), sent))
    batcher.close()
    for chunks, maps in zip(sent, answers, strict=True):
        assert len(chunks) == len(maps)
        for tiles, found in zip(chunks, maps, strict=True):
            assert np.array_equal(found, 255 - tiles[..., :2])
    assert recorder.queued == 0
    assert sum(recorder.batches) == sum(n for chunks in requests for n, _ in chunks)
    assert max(recorder.batches) <= max_batch_tiles
    allowed = {1, 2, 4, max_batch_tiles}
    assert {shape[0] for shape in session.shapes} <= allowed


def test_a_real_model_answers_the_same_through_the_engine(
    tiny_session: ModelSession, he_pixels: NDArray[np.uint8]
) -> None:
    alone = Segmenter(tiny_session).segment(he_pixels)
    batcher = TileBatcher(
        tiny_session, observer=Recorder(), lanes=2, max_batch_tiles=4, delay_s=0.001
    )
    shared = Segmenter(tiny_session, runner=batcher)
    images = [he_pixels, he_pixels[:300, :200], he_pixels[::-1].copy(), he_pixels[:96]]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(shared.segment, images))
    batcher.close()
    assert np.array_equal(found[0].labels, alone.labels)
    assert np.array_equal(found[0].probability, alone.probability)
    for image, result in zip(images, found, strict=True):
        expected = Segmenter(tiny_session).segment(image)
        assert np.array_equal(result.labels, expected.labels)
        assert result.timings_ms["inference"] > 0


def test_tiles_of_several_requests_share_a_run(gated: GatedSession) -> None:
    recorder = Recorder()
    batcher = TileBatcher(gated, observer=recorder, max_batch_tiles=8)
    gated.gate.clear()
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(collect, batcher, [tiles_of(20)])
        assert gated.entered.wait(20)
        others = [pool.submit(collect, batcher, [tiles_of(30 + n)]) for n in range(5)]
        while recorder.queued < 5:
            pass
        gated.gate.set()
        assert first.result()[0].max() == 235
        assert [other.result()[0].max() for other in others] == [225 - n for n in range(5)]
    batcher.close()
    assert recorder.batches == [1, 5]
    assert [shape[0] for shape in gated.shapes] == [1, 8]  # five tiles run as a warm eight


def test_urgent_tiles_overtake_and_a_large_image_holds_two_chunks_at_most(
    gated: GatedSession,
) -> None:
    recorder = Recorder()
    batcher = TileBatcher(gated, observer=recorder)
    gated.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        large = pool.submit(
            collect, batcher, [tiles_of(40, count=3)] * 10, Ticket(priority="batch")
        )
        assert gated.entered.wait(20)
        while recorder.queued < 5:
            pass
        assert recorder.queued == 5
        urgent = pool.submit(collect, batcher, [tiles_of(50, side=8)], Ticket(priority="stat"))
        while recorder.queued < 6:
            pass
        gated.gate.set()
        urgent.result()
        assert len(large.result()) == 10
    batcher.close()
    assert gated.shapes[1] == (1, 8, 8, 3)


def test_expired_and_abandoned_tiles_are_never_run(gated: GatedSession) -> None:
    recorder = Recorder()
    batcher = TileBatcher(gated, observer=recorder)
    gated.gate.clear()
    gone, late = Ticket(), Ticket(timeout_s=1000)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(collect, batcher, [tiles_of(60)])
        assert gated.entered.wait(20)
        refused = [
            (pool.submit(collect, batcher, [tiles_of(70, count=2)], gone), ClientGoneError),
            (pool.submit(collect, batcher, [tiles_of(80, count=2)], late), DeadlineExceededError),
        ]
        while recorder.queued < 4:
            pass
        gone.give_up()
        late.deadline_s = 0.0
        gated.gate.set()
        first.result()
        for future, error in refused:
            with pytest.raises(error):
                future.result()
    batcher.close()
    assert recorder.batches == [1]
    assert recorder.queued == 0


def test_a_failing_run_fails_its_requests_and_no_others(gated: GatedSession) -> None:
    recorder = Recorder()
    batcher = TileBatcher(gated, observer=recorder)
    with pytest.raises(ZeroDivisionError):
        collect(batcher, [tiles_of(20), tiles_of(13, count=4), tiles_of(21), tiles_of(22)])
    assert collect(batcher, [tiles_of(90)])[0].max() == 165
    batcher.close()
    assert recorder.queued == 0


def test_closing_finishes_what_is_queued_and_refuses_more(gated: GatedSession) -> None:
    recorder = Recorder()
    batcher = TileBatcher(gated, observer=recorder)
    gated.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(collect, batcher, [tiles_of(20, count=3)])
        assert gated.entered.wait(20)
        closing = pool.submit(batcher.close)
        gated.gate.set()
        assert len(running.result()[0]) == 3
        closing.result()
    with pytest.raises(NotReadyError):
        collect(batcher, [tiles_of(20)])


def test_an_image_is_cut_only_as_fast_as_it_runs(gated: GatedSession) -> None:
    cut: list[int] = []

    def chunks() -> Iterator[Tiles]:
        for number in range(5):
            cut.append(number)
            yield tiles_of(20)

    batcher = TileBatcher(gated, observer=Recorder())
    stream = batcher.stream(chunks(), Ticket())
    next(stream)
    assert cut == [0, 1]
    stream.close()
    batcher.close()


def test_warming_up_runs_every_shape_and_batch(gated: GatedSession) -> None:
    batcher = TileBatcher(gated, observer=Recorder(), max_batch_tiles=4)
    batcher.warm_up([(4, 4), (4, 8)])
    batcher.close()
    assert sorted(gated.shapes) == [(n, 4, w, 3) for n in (1, 2, 4) for w in (4, 8)]


def test_a_lone_tile_gets_all_processors_and_tiles_together_one_each() -> None:
    wide, narrow, recorder = GatedSession(), GatedSession(), Recorder()
    batcher = TileBatcher(narrow, observer=recorder, lanes=2, run_alone=wide.run)
    assert collect(batcher, [tiles_of(20)])[0].max() == 235
    assert (len(wide.shapes), len(narrow.shapes)) == (1, 0)
    assert collect(batcher, [tiles_of(21, count=4)])[0].max() == 234
    batcher.close()
    assert (len(wide.shapes), len(narrow.shapes)) == (1, 4)
    assert (recorder.queued, sum(recorder.batches)) == (0, 5)


def test_a_run_with_all_processors_that_fails_holds_up_nobody_after_it() -> None:
    wide, narrow, recorder = GatedSession(), GatedSession(), Recorder()
    batcher = TileBatcher(narrow, observer=recorder, lanes=2, run_alone=wide.run)
    with pytest.raises(ZeroDivisionError):
        collect(batcher, [tiles_of(13)])
    assert collect(batcher, [tiles_of(30)])[0].max() == 225
    batcher.close()
    assert recorder.queued == 0


def test_who_comes_beside_a_run_with_all_processors_waits_for_it() -> None:
    wide, narrow, recorder = GatedSession(), GatedSession(), Recorder()
    batcher = TileBatcher(narrow, observer=recorder, lanes=2, run_alone=wide.run)
    wide.gate.clear()
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(collect, batcher, [tiles_of(20)])
        assert wide.entered.wait(20)
        others = [pool.submit(collect, batcher, [tiles_of(30 + n)]) for n in range(2)]
        while recorder.queued < 2:
            pass
        assert not narrow.entered.is_set()
        wide.gate.set()
        assert first.result()[0].max() == 235
        assert [other.result()[0].max() for other in others] == [225, 224]
    batcher.close()
    assert (len(wide.shapes), len(narrow.shapes)) == (1, 2)
