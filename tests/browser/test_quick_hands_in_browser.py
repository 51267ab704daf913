"""What quick hands do: clicks that do not wait for the app, double clicks, a reload."""

import contextlib
import re
from pathlib import Path
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra `dev`)")
pytest.importorskip("streamlit", reason="needs the extra `ui`")

expect = sync_api.expect
pytestmark = pytest.mark.slow  # started first, it runs beside all others


def test_a_double_click_on_file_is_one_review(app: Any, tile: Path, stack: Any) -> None:
    app.segment(tile)
    app.tab("Review")
    app.tick("Reject")
    app.page.get_by_label("Reviewer").fill("pathologist-7")
    app.page.get_by_label("Reason (not needed to accept)").fill("Out of focus.")
    app.button("File the review").dblclick()
    app.see("Status: cancelled")
    running = app.page.locator("[data-test-script-state=running]")
    expect(running).to_have_count(0)
    expect(app.page.get_by_test_id("stAlert")).to_have_count(0)
    assert stack.results()[0]["current"]["status"] == "cancelled"


def test_quick_clicks_delete_each_what_was_clicked(app: Any, tile: Path) -> None:
    app.segment(tile)
    app.button("Delete").click()
    places = [app.nuclei.nth(number).bounding_box() for number in (20, 40, 60, 80)]
    for box in places:
        # Faster than the app answers, without waiting for anything.
        app.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    app.see("4 deleted, 0 drawn")
    expect(app.page.locator("polygon.deleted")).to_have_count(4)
    app.button("Draw").click()
    app.draw_around(300, 150)
    app.draw_around(340, 115)
    app.see("4 deleted, 2 drawn")
    # A double click erases the one drawn nucleus that it is on.
    app.button("Delete").click()
    box = app.page.locator("polygon.drawn").first.bounding_box()
    app.page.mouse.dblclick(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    app.see("4 deleted, 1 drawn")
    expect(app.page.locator("polygon.drawn")).to_have_count(1)
    # The browser asks before a reload loses what is not on file.
    asked = []

    def stay(dialog: Any) -> None:
        asked.append(dialog.type)
        dialog.dismiss()

    app.page.on("dialog", stay)
    with contextlib.suppress(sync_api.Error):
        app.page.reload(timeout=5000)
    assert asked == ["beforeunload"]
    app.see("4 deleted, 1 drawn")
    app.button("Discard all").click()
    expect(app.page.locator("polygon.deleted")).to_have_count(0)
    app.page.reload()
    app.see("drop it into the side bar")
    assert asked == ["beforeunload"]


def test_a_batch_outlives_a_touch_of_the_page(app: Any, test_data: Path, stack: Any) -> None:
    before = len(stack.results())
    app.mode("Batch")
    app.see("for all files")
    names = ("tnbc_p08_2", "nucls_test_1", "nucls_test_2", "tnbc_p07_1")
    app.drop(*(test_data / "images" / f"{name}.png" for name in names))
    app.button("Segment all").click()
    app.see(re.compile(r"\d of 4: "))
    app.slider("Threshold").press("ArrowRight")
    app.see("4 of 4 images segmented.")
    app.see("of the files and choices before")
    assert len(stack.results()) == before + 4
