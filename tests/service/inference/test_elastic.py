"""A session with threads for a lone run: it answers as any other, and costs what it says."""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from service.engine import open_engine
from service.errors import ModelContractError, ProviderError
from service.inference.batcher import TileBatcher
from service.inference.choice import load_best
from service.inference.providers import OPENVINO_PROVIDER, RuntimeOptions
from service.inference.repository import ModelRepository, embedded_models_dir
from service.inference.session import ModelSession
from service.inference.ticket import Ticket
from service.settings import Settings
from service.telemetry import Metrics

ELASTIC = RuntimeOptions(threads=1, streams=2, alone_threads=2)

needs_openvino = pytest.mark.skipif(
    OPENVINO_PROVIDER not in onnxruntime.get_available_providers(),
    reason="needs onnxruntime-openvino",
)


@pytest.fixture(scope="module")
def embedded() -> ModelSession:
    """The embedded model as the service runs it on two processors."""
    return ModelRepository.open(
        embedded_models_dir(), provider="cpu", precision="fp32", options=ELASTIC
    ).get()


@pytest.fixture
def folder(tiny_model_path: Path, tmp_path: Path) -> Path:
    """A version of the tiny model that a test may change."""
    target = tmp_path / "tiny" / "1.1.0"
    target.mkdir(parents=True)
    shutil.copy(tiny_model_path, target / "model.onnx")
    return target


def test_the_real_model_answers_the_same_bytes_alone_and_in_a_crowd(
    embedded: ModelSession, he_pixels: NDArray[np.uint8]
) -> None:
    assert embedded.has_wide
    tiles = np.stack([np.roll(he_pixels[:256, :256], 32 * shift, axis=0) for shift in range(4)])
    one_thread = ModelSession.load(embedded.path, provider="cpu", threads=1).run(tiles)
    assert one_thread.any()
    assert np.array_equal(embedded.run(tiles), one_thread)
    assert np.array_equal(embedded.run_alone(tiles), one_thread)

    batcher = TileBatcher(embedded, observer=Metrics(), lanes=2, run_alone=embedded.run_alone)

    def ask(index: int) -> NDArray[np.uint8]:
        (maps,) = batcher.stream(iter([tiles[index : index + 1]]), Ticket())
        return maps[0]

    alone = ask(0)
    with ThreadPoolExecutor(4) as pool:
        crowd = list(pool.map(ask, range(4)))
    batcher.close()
    assert np.array_equal(alone, one_thread[0])
    assert np.array_equal(np.stack(crowd), one_thread)


def test_memory_that_was_given_back_is_taken_again(
    embedded: ModelSession, he_pixels: NDArray[np.uint8]
) -> None:
    tile = he_pixels[None, :128, :128]
    before = embedded.run(tile)
    embedded.give_back_memory()
    assert np.array_equal(embedded.run(tile), before)
    assert np.array_equal(embedded.run_alone(tile), before)


@needs_openvino
def test_on_openvino_a_second_session_is_there_only_where_it_was_asked_for(
    folder: Path, he_pixels: NDArray[np.uint8]
) -> None:
    tile = he_pixels[None, :128, :128]
    usual = load_best(folder, provider="openvino", precision="fp32", options=ELASTIC)
    assert not usual.has_wide
    assert np.array_equal(usual.run_alone(tile), usual.run(tile))
    options = RuntimeOptions(threads=1, streams=2, alone_threads=2, alone_on_openvino=True)
    asked = load_best(folder, provider="openvino", precision="fp32", options=options)
    assert asked.has_wide
    assert asked.provider == OPENVINO_PROVIDER
    assert np.array_equal(asked.run_alone(tile), asked.run(tile))
    assert np.array_equal(asked.run(tile), usual.run(tile))


def test_a_file_that_changes_while_it_is_loaded_is_refused(folder: Path) -> None:
    session = ModelSession.load(folder / "model.onnx", provider="cpu", options=ELASTIC)
    content = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(content + b"\0")
    with pytest.raises(ModelContractError, match="changed while it was being loaded"):
        session.widen(ELASTIC)
    assert not session.has_wide


@pytest.mark.parametrize(
    ("options", "provider", "expected"),
    [
        (ELASTIC, "cpu", (1, 2, 2)),
        (ELASTIC, "openvino", (2, 1, 0)),
        (ELASTIC, "cuda", (2, 1, 0)),
        (RuntimeOptions(threads=3, streams=2), "openvino", (3, 2, 0)),
    ],
)
def test_each_provider_gets_the_threads_that_it_can_use(
    options: RuntimeOptions, provider: str, expected: tuple[int, int, int]
) -> None:
    on = options.on(provider)  # type: ignore[arg-type]  # parametrised by plain strings
    assert (on.threads, on.streams, on.alone_threads) == expected


@pytest.mark.parametrize(
    ("options", "threads"),
    [
        (RuntimeOptions(threads=1, streams=2), 1),
        (RuntimeOptions(threads=4), 4),
        (RuntimeOptions(threads=2, streams=3), 4),
    ],
)
def test_lanes_share_a_pool_of_their_threads_besides_the_callers(
    tiny_model_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: RuntimeOptions,
    threads: int,
) -> None:
    real, asked = onnxruntime.InferenceSession, []

    def note(content: bytes, session_options: onnxruntime.SessionOptions, **more: object) -> object:
        asked.append(session_options.intra_op_num_threads)
        return real(content, session_options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", note)
    ModelSession.load(tiny_model_path, provider="cpu", options=options)
    assert asked == [threads]


def test_the_engine_takes_what_the_session_has(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.inference.lanes.usable_processors", lambda: 2)
    alone: list[int] = []
    real: Callable[..., NDArray[np.uint8]] = ModelSession.run_alone

    def note(self: ModelSession, tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
        alone.append(len(tiles))
        return real(self, tiles)

    monkeypatch.setattr(ModelSession, "run_alone", note)
    pixels = np.full((64, 64, 3), 200, dtype=np.uint8)
    for options, expected in ((ELASTIC, 1), (RuntimeOptions(threads=2), 0)):
        session = load_best(folder, provider="cpu", precision="fp32", options=options)
        engine = open_engine(session, Settings(provider="cpu"), Metrics())
        alone.clear()
        engine.segmenter.segment(pixels)
        engine.close()
        assert len(alone) == expected


def test_what_has_no_threads_to_share_out_is_not_widened(tiny_model_path: Path) -> None:
    session = ModelSession.load(tiny_model_path, provider="cpu", options=ELASTIC)
    session.provider = "CUDAExecutionProvider"
    with pytest.raises(ProviderError, match="no threads to share out"):
        session.widen(ELASTIC)
