"""Models on duty: swapped whole, closed with their last request."""

import gc
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service.errors import ModelRefusedError, NothingToRollBackError, UnknownModelError
from service.inference.repository import ModelRepository
from service.inference.session import ModelSession
from service.roster import Roster
from service.segmenter import Segmenter
from service.telemetry import Metrics

MakeModel = Callable[..., Path]


@pytest.fixture
def root(tiny_models_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_models_dir, tmp_path / "models")


class Engines:
    """Opens segmenters and remembers which were closed."""

    def __init__(self) -> None:
        self.closed: list[str] = []

    def __call__(self, session: ModelSession) -> tuple[Segmenter, Callable[[], None]]:
        version = session.contract.version
        return Segmenter(session), lambda: self.closed.append(version)


def open_roster(root: Path, engines: Engines, metrics: Metrics | None = None) -> Roster:
    repository = ModelRepository.open(
        root, default="tiny", provider="cpu", threads=1, versions="active"
    )
    return Roster(repository, engines, metrics or Metrics())


def test_a_retired_model_lives_as_long_as_its_last_request(root: Path) -> None:
    engines = Engines()
    roster = open_roster(root, engines)
    held = roster.segmenter("tiny")
    session = weakref.ref(held.session)
    roster.activate("tiny", "1.0.0")
    assert roster.segmenter(None).session.contract.version == "1.0.0"
    # A request that began before the swap ends with its own model.
    found = held.segment(np.full((64, 64, 3), 240, np.uint8))
    assert found.model.contract.version == "1.1.0"
    assert engines.closed == []
    del found, held
    gc.collect()
    assert engines.closed == ["1.1.0"]
    assert session() is None


def test_rollback_goes_back_and_forth(root: Path) -> None:
    roster = open_roster(root, Engines())
    with pytest.raises(NothingToRollBackError, match=r"tiny has had no version but 1\.1\.0"):
        roster.rollback("tiny")
    roster.activate("tiny", "1.0.0")
    change, session = roster.rollback("tiny")
    assert (change.version, change.previous) == ("1.1.0", "1.0.0")
    assert roster.segmenter("tiny").session is session
    assert roster.rollback("tiny")[0].version == "1.0.0"
    with pytest.raises(UnknownModelError):
        roster.rollback("none")


def test_a_refused_version_changes_nothing(root: Path, tiny_model_factory: MakeModel) -> None:
    engines, metrics = Engines(), Metrics()
    roster = open_roster(root, engines, metrics)
    before = roster.segmenter("tiny")
    tiny_model_factory(root / "tiny" / "2.0.0" / "model.onnx", metadata={})
    with pytest.raises(ModelRefusedError, match=r"tiny/2\.0\.0/model\.onnx: the file has no"):
        roster.activate("tiny", "2.0.0")
    assert roster.segmenter("tiny") is before
    assert [canary.model for canary in roster.canaries] == ["tiny:1.1.0", "tiny_onechannel:1.0.0"]
    assert b'version="2.0.0"' not in metrics.render()


def test_metrics_show_who_is_on_duty(root: Path) -> None:
    metrics = Metrics()
    roster = open_roster(root, Engines(), metrics)
    roster.activate("tiny", "1.0.0")
    text = metrics.render().decode()
    assert 'karyon_model_active{model="tiny",version="1.0.0"} 1.0' in text
    assert 'karyon_model_active{model="tiny",version="1.1.0"} 0.0' in text
    info = [line for line in text.splitlines() if line.startswith("karyon_model_info{")]
    assert not any('version="1.1.0"' in line for line in info)
    assert all('precision="fp32"' in line for line in info)
    assert len(info) == 2


def test_closing_closes_each_engine_once(root: Path) -> None:
    engines = Engines()
    roster = open_roster(root, engines)
    roster.close()
    roster.close()
    assert sorted(engines.closed) == ["1.0.0", "1.1.0"]
