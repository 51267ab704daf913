"""A candidate beside the served model: compared, counted, never returned."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from structlog.testing import capture_logs

from service.app import create_app
from service.errors import UnknownModelError
from service.inference.session import ModelSession
from service.segmentation_result import Segmentation, SegmentOptions
from service.segmenter import Segmenter
from service.settings import Settings
from service.shadow import Shadow
from service.telemetry import Metrics


@pytest.fixture(scope="module")
def served(tiny_model_path: Path) -> Segmenter:
    return Segmenter(ModelSession.load(tiny_model_path, provider="cpu", threads=1))


@pytest.fixture(scope="module")
def candidate(tiny_one_channel_path: Path) -> Segmenter:
    return Segmenter(ModelSession.load(tiny_one_channel_path, provider="cpu", threads=1))


class Brittle(Segmenter):
    """A candidate that fails."""

    def segment(self, *_: object) -> Segmentation:  # type: ignore[override]  # it never looks
        raise RuntimeError


def offer(
    shadow: Shadow, served: Segmenter, pixels: NDArray[np.uint8], times: int, *, wait: bool = True
) -> None:
    """Answer the same image some times, and show each to the candidate."""
    answered = served.segment(pixels)

    async def scenario() -> None:
        for _ in range(times):
            await shadow.offer(pixels, None, SegmentOptions(), answered)
            if wait and shadow._running is not None:
                await shadow._running
        await shadow.close()

    asyncio.run(scenario())


def test_counts_are_compared_on_the_share(
    served: Segmenter, candidate: Segmenter, he_pixels: NDArray[np.uint8]
) -> None:
    metrics = Metrics()
    shadow = Shadow(lambda: candidate, 0.25, observer=metrics, is_idle=lambda: True)
    with capture_logs() as logs:
        offer(shadow, served, he_pixels[:256, :256], 8)
    ours = served.segment(he_pixels[:256, :256]).count
    theirs = candidate.segment(he_pixels[:256, :256]).count
    assert len(logs) == 2
    assert (logs[0]["served_count"], logs[0]["candidate_count"]) == (ours, theirs)
    assert logs[0]["candidate"] == "tiny_onechannel:1.0.0"
    text = metrics.render().decode()
    assert 'karyon_shadow_images_total{outcome="compared"} 2.0' in text
    labels = 'model="tiny_onechannel",version="1.0.0"'
    assert f'karyon_shadow_nuclei_total{{counted_by="served",{labels}}} {2.0 * ours}' in text
    assert f'karyon_shadow_nuclei_total{{counted_by="candidate",{labels}}} {2.0 * theirs}' in text


def test_a_busy_service_is_left_alone(
    served: Segmenter, candidate: Segmenter, he_pixels: NDArray[np.uint8]
) -> None:
    metrics = Metrics()
    busy = Shadow(lambda: candidate, 1.0, observer=metrics, is_idle=lambda: False)
    offer(busy, served, he_pixels[:64, :64], 3)
    assert b'karyon_shadow_images_total{outcome="busy"} 3.0' in metrics.render()
    metrics = Metrics()
    one_at_a_time = Shadow(lambda: candidate, 1.0, observer=metrics, is_idle=lambda: True)
    offer(one_at_a_time, served, he_pixels[:64, :64], 3, wait=False)
    assert b'karyon_shadow_images_total{outcome="busy"} 2.0' in metrics.render()
    assert b'karyon_shadow_images_total{outcome="compared"} 1.0' in metrics.render()


def test_a_candidate_that_fails_harms_nobody(
    served: Segmenter, candidate: Segmenter, he_pixels: NDArray[np.uint8]
) -> None:
    metrics = Metrics()
    brittle = Brittle(candidate.session)
    shadow = Shadow(lambda: brittle, 1.0, observer=metrics, is_idle=lambda: True)
    with capture_logs() as logs:
        offer(shadow, served, he_pixels[:64, :64], 2)
    assert [(log["event"], log["error"]) for log in logs] == [("shadow failed", "RuntimeError")] * 2
    assert b'karyon_shadow_images_total{outcome="failed"} 2.0' in metrics.render()


def test_the_candidate_itself_is_not_compared_with_itself(
    served: Segmenter, he_pixels: NDArray[np.uint8]
) -> None:
    metrics = Metrics()
    shadow = Shadow(lambda: served, 1.0, observer=metrics, is_idle=lambda: True)
    offer(shadow, served, he_pixels[:64, :64], 2)
    assert b"karyon_shadow_images_total{" not in metrics.render()


def test_the_answer_is_the_served_model_s(tiny_models_dir: Path, test_data: Path) -> None:
    image = (test_data / "images" / "nucls_test_1.png").read_bytes()
    settings = Settings(
        models_dir=tiny_models_dir,
        default_model="tiny",
        provider="cpu",
        threads=1,
        shadow_model="tiny_onechannel",
        shadow_share=1.0,
    )
    with TestClient(create_app(settings)) as client:
        answer = client.post("/segment", files={"image": image}).json()
        assert answer["model"]["name"] == "tiny"
    # Closing the lifespan has waited for the comparison.
    metrics = client.app.state.observer.render()  # type: ignore[attr-defined]  # the app is ours
    assert b'karyon_shadow_images_total{outcome="compared"} 1.0' in metrics


def test_a_misspelt_candidate_refuses_to_start(tiny_models_dir: Path) -> None:
    settings = Settings(models_dir=tiny_models_dir, provider="cpu", shadow_model="none")
    with (
        pytest.raises(UnknownModelError, match="no model 'none'"),
        TestClient(create_app(settings)),
    ):
        pass
