"""Changes as the viewer reports them: late, twice, several at once."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("streamlit", reason="needs the extra `ui`")

from streamlit.testing.v1 import AppTest

from service.ui import edit_view

CORNERS = [[2.0, 2.0], [6.0, 2.0], [6.0, 6.0], [2.0, 6.0]]
ELSEWHERE = [[22.0, 2.0], [26.0, 2.0], [26.0, 6.0], [22.0, 6.0]]
POINTS = "2.00,2.00 6.00,2.00 6.00,6.00 2.00,6.00"


SCRIPT = """
import streamlit as st

from service.ui.edit_view import show_edits, take_edit, undo

answer = st.session_state["answer"]
event = st.session_state.pop("event", None)
if event is not None:
    st.session_state["viewer"] = {"edit": event}
    take_edit(answer, "viewer")
for _ in range(st.session_state.pop("clicks on undo", 0)):
    undo(answer)
show_edits(answer)
"""


@pytest.fixture
def page() -> AppTest:
    """The lines under the picture of a result `r1` of 40 x 20 px with two nuclei."""
    labels = np.zeros((20, 40), np.uint16)
    labels[10:14, 2:6] = 1
    labels[10:14, 12:16] = 2
    buffer = io.BytesIO()
    Image.fromarray(labels).save(buffer, "PNG")
    test = AppTest.from_string(SCRIPT)
    test.session_state["answer"] = {
        "id": "r1",
        "image": {"width": 40, "height": 20, "sha256": "5a"},
        "nuclei": [{"id": 1}, {"id": 2}],
        "mask": {"data": base64.b64encode(buffer.getvalue()).decode()},
    }
    return test.run()


def report(test: AppTest, *changes: dict[str, Any]) -> str:
    """Let the viewer report all that it knows of no receipt for; return what stands then."""
    test.session_state["event"] = {"edits": [{"result": "r1", **item} for item in changes]}
    test.run()
    assert not test.exception
    return "".join(item.value for item in (*test.markdown, *test.warning))


def test_a_change_that_is_reported_again_is_made_once(page: AppTest) -> None:
    first, second = {"id": "a", "toggle": 1}, {"id": "b", "toggle": 2}
    assert "1 deleted" in report(page, first)
    assert "2 deleted" in report(page, first, second)
    assert "2 deleted" in report(page, second)


def test_a_change_of_another_result_is_not_made_to_this_one(page: AppTest) -> None:
    shown = report(page, {"id": "a", "toggle": 2, "result": "r0"})
    assert "deleted" not in shown
    assert "do it again" in shown


def test_a_second_click_on_a_drawn_nucleus_erases_no_other(page: AppTest) -> None:
    drawn = report(page, {"id": "a", "outline": CORNERS}, {"id": "b", "outline": ELSEWHERE})
    assert "2 drawn" in drawn
    assert "1 drawn" in report(page, {"id": "c", "erase": POINTS})
    assert "1 drawn" in report(page, {"id": "d", "erase": POINTS})


def test_a_double_click_on_undo_undoes_what_there_is(page: AppTest) -> None:
    report(page, {"id": "a", "toggle": 1})
    # The second click comes while the page of the first is being made: the button still stands.
    page.session_state["clicks on undo"] = 2
    page.run()
    assert not page.exception
    assert not page.markdown
    assert "1 deleted" in report(page, {"id": "b", "toggle": 1})


def test_changes_outlive_a_case_that_is_given_after_them(page: AppTest) -> None:
    report(page, {"id": "a", "toggle": 1})
    answer = page.session_state["answer"]
    # The same nuclei, filed anew under an accession number.
    page.session_state["answer"] = {**answer, "id": "r2"}
    page.run()
    assert "1 deleted" in page.markdown[0].value
    # Other nuclei have changes of their own.
    page.session_state["answer"] = {**answer, "id": "r3", "mask": {"data": "AAAA"}}
    page.run()
    assert not page.markdown


def test_a_run_that_is_ended_takes_no_change_that_it_does_not_make(
    page: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: object) -> None:
        message = "Streamlit ends the run for the next click's"
        raise RuntimeError(message)

    first, second = {"id": "a", "toggle": 1}, {"id": "b", "toggle": 2}
    with monkeypatch.context() as patched:
        patched.setattr(edit_view, "edited_labels", end)
        page.session_state["event"] = {"edits": [{"result": "r1", **first}]}
        page.run()
        assert page.exception
    assert "2 deleted" in report(page, first, second)
