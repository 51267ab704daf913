"""The side bar keeps what was set while the service is busy, refuses a key, or swaps its models."""

from collections.abc import Callable
from typing import Any

import pytest

from service.ui import session, sidebar
from service.ui.client import ServiceError

App = Callable[..., Any]
ONE_CHANNEL = "tiny_onechannel:1.0.0"


def set_by_hand(test: Any) -> dict[str, Any]:
    """Return where everything stands that somebody set."""
    widgets = (*test.sidebar.slider, *test.sidebar.number_input, *test.sidebar.text_input)
    kept = {item.label: item.value for item in widgets if item.label != "API key"}
    return {**kept, "Model": test.selectbox(key="model").value, "Map": test.radio(key="map").value}


@pytest.fixture
def adjusted(app: App) -> Any:
    """The app with nothing as it was at the start."""
    test = app()
    test.selectbox(key="model").select(ONE_CHANNEL).run()
    test.slider(key=f"threshold {ONE_CHANNEL}").set_value(0.7)
    test.number_input(key="mpp").set_value(0.25)
    test.slider(key="thickness").set_value(4.0)
    test.radio(key="map").set_value("Probability").run()
    return test


@pytest.mark.parametrize("status", [401, 429, 503, 504])
def test_what_was_set_outlives_a_service_that_does_not_answer(
    adjusted: Any, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    before = set_by_hand(adjusted)

    def refuse(*_: object) -> Any:
        raise ServiceError("Not now", "For a reason.", status=status)

    with monkeypatch.context() as patched:
        patched.setattr(sidebar, "loaded_models", refuse)
        adjusted.run()
        assert not adjusted.exception
        assert bool(adjusted.error) == (status == 401)
    adjusted.run()
    assert set_by_hand(adjusted) == before


def test_a_model_that_is_unloaded_is_replaced_by_no_other_unseen(
    adjusted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fewer(url: str, key: str) -> list[dict[str, Any]]:
        listed = session.loaded_models(url, key)
        return [item for item in listed if item["name"] != ONE_CHANNEL]

    before, shown = set_by_hand(adjusted), adjusted.session_state["shown result"]
    monkeypatch.setattr(sidebar, "loaded_models", fewer)
    adjusted.run()
    assert not adjusted.exception
    assert set_by_hand(adjusted) == before
    assert adjusted.session_state["shown result"] == shown, "with the changes made to it"
    assert any("no longer loaded" in item.value for item in adjusted.sidebar.warning)
    adjusted.selectbox(key="model").select("tiny:1.1.0").run()
    assert ONE_CHANNEL not in adjusted.selectbox(key="model").options
    assert not adjusted.sidebar.warning
