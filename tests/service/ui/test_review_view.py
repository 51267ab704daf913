"""A review is of the result that stood on the screen, whole, and filed once."""

from collections.abc import Callable
from typing import Any

import pytest

from service.ui.client import KaryonClient, ServiceError

App = Callable[..., Any]


def labelled(widgets: Any, beginning: str) -> Any:
    return next(item for item in widgets if item.label.startswith(beginning))


def file_review(test: Any, decision: str, reason: str = "") -> Any:
    """Fill the form in, send it, and return the button that was pressed."""
    labelled(test.radio, "Decision").set_value(decision)
    labelled(test.text_input, "Reviewer").set_value("pathologist-7")
    labelled(test.text_area, "Reason").set_value(reason)
    pressed = labelled(test.button, "File the review")
    pressed.click().run()
    assert not test.exception
    return pressed


def test_the_reason_for_one_result_is_not_filed_with_the_next(
    app: App, running_service: Any
) -> None:
    test = app()
    first = test.session_state["shown result"]
    file_review(test, "Accept", "Counted twice by hand.")
    client = KaryonClient(running_service.url)
    assert client.result(first)[0]["current"]["review"]["reason"] == "Counted twice by hand."
    assert not labelled(test.text_area, "Reason").value, "it was for the decision before"
    labelled(test.text_area, "Reason").set_value("Out of focus.")
    select = test.selectbox(key="sample")
    select.select(next(title for title in select.options if title != select.value)).run()
    assert not labelled(test.text_area, "Reason").value


def test_a_second_click_on_file_is_no_review(app: App, running_service: Any) -> None:
    test = app()
    pressed = file_review(test, "Accept")
    pressed.click().run()
    assert not test.error
    filed = KaryonClient(running_service.url).result(test.session_state["shown result"])[0]
    assert filed["current"]["status"] == "final"


def test_what_was_filed_is_not_called_a_failure(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    test = app()

    def busy(*_: object) -> Any:
        raise ServiceError("The service is busy", "It has a queue.", status=503)

    with monkeypatch.context() as patched:
        patched.setattr(KaryonClient, "result", busy)
        file_review(test, "Accept")
        assert "not reviewed yet" not in "".join(item.value for item in test.markdown)
    labelled(test.button, "Try again").click().run()
    assert not test.error
    assert "Status: **final**" in "".join(item.value for item in test.markdown)


def test_a_run_that_is_ended_once_the_review_is_on_file_is_no_conflict(
    app: App, running_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = app()

    def end(*_: object) -> None:
        message = "Streamlit ends the run of the first click where it touches the session"
        raise RuntimeError(message)

    labelled(test.radio, "Decision").set_value("Correct")
    labelled(test.text_input, "Reviewer").set_value("pathologist-7")
    labelled(test.text_area, "Reason").set_value("Two are debris.")
    pressed = labelled(test.button, "File the review")
    with monkeypatch.context() as patched:
        patched.setattr("service.ui.review_view.keep_as_filed", end)
        pressed.click().run()
        assert test.exception
    pressed.click().run()
    assert not test.exception
    assert not test.error, "the second click's"
    shown = test.session_state["shown result"]
    assert KaryonClient(running_service.url).result(shown)[0]["current"]["status"] == "corrected"
    assert "Status: **corrected**" in "".join(item.value for item in test.markdown)
