"""The web app as people use it: Debian's Chromium, the app, the service with the embedded model."""

import contextlib
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra `dev`)")
pytest.importorskip("streamlit", reason="needs the extra `ui`")

from service.ui.download_view import FORMATS  # noqa: E402  needs the extra `ui`

expect = sync_api.expect
pytestmark = pytest.mark.slow  # started first, it runs beside all others


def press(locator: Any, key: str, times: int = 1) -> None:
    for _ in range(times):
        locator.press(key)


def test_the_first_page_says_what_to_do_and_a_sample_is_one_click_away(app: Any) -> None:
    app.see("drop it into the side bar")
    expect(app.button("Breast, 512 x 512 (TNBC)")).to_be_visible()
    assert app.barriers() == []
    app.button("Breast, 256 x 256 (NuCLS)").press("Enter")
    expect(app.nuclei.first).to_be_visible()
    app.see("Amgad et al.")
    expect(app.page.get_by_text("Research use only")).to_be_in_viewport()


def test_a_dropped_image_is_outlined_and_counted(app: Any, tile: Path) -> None:
    app.segment(tile)
    assert app.nuclei.count() == app.count()
    assert 80 < app.count() < 170, "123 nuclei are annotated"
    app.see("Count interval:")
    expect(app.page.get_by_test_id("stVegaLiteChart").locator("canvas, svg").first).to_be_visible()
    app.see("is only assumed")
    resolution = app.page.get_by_role("spinbutton", name="Resolution (µm per pixel)")
    resolution.fill("0.25")
    resolution.press("Enter")
    app.see("/mm²")
    app.see("as you gave it")
    # A resolution that cannot be: the flag fires, in plain words, with what to do.
    resolution.fill("1")
    resolution.press("Enter")
    app.see("Look before you use this count")
    app.tab("Quality")
    app.see("What to do:")
    assert app.barriers() == []


def test_zoom_and_pan_by_buttons_keys_wheel_and_mouse(app: Any, tile: Path) -> None:
    app.segment(tile)
    whole = app.view_box()
    assert whole == [0, 0, 512, 512]
    app.button("Zoom in").click()
    assert app.view_box()[2] < 512
    app.frame.press("0")
    assert app.view_box() == whole
    press(app.frame, "+", 2)
    left = app.view_box()[0]
    app.frame.press("ArrowRight")
    assert app.view_box()[0] > left
    app.button("Fit").click()
    app.page.mouse.move(*app.at(400, 100))
    app.page.mouse.wheel(0, -200)
    expect(app.picture).not_to_have_attribute("viewBox", "0 0 512 512")
    x, y, width, height = app.view_box()
    assert x + width * 400 / 512 == pytest.approx(400, abs=2), "the pixel under the wheel stays"
    assert y + height * 100 / 512 == pytest.approx(100, abs=2)
    app.page.mouse.down()
    app.page.mouse.move(*app.at(300, 200), steps=4)
    app.page.mouse.up()
    assert app.view_box()[0] > x, "the image follows the hand to the left"
    expect(app.page.locator("polygon.marked")).to_have_count(0)


def test_outlines_look_as_chosen(app: Any, tile: Path) -> None:
    app.segment(tile)
    outlines = app.page.locator("g.outlines")
    app.page.get_by_text("Outlines", exact=True).click()
    app.choose("Colour", "Cyan")
    expect(outlines).to_have_attribute("stroke", "#00e5ff")
    for label, key, attribute, value in (
        ("Thickness (px)", "ArrowRight", "stroke-width", "2.5"),
        ("Opacity", "ArrowLeft", "stroke-opacity", "0.95"),
        ("Fill", "ArrowRight", "fill-opacity", "0.05"),
    ):
        app.slider(label).press(key)
        expect(outlines).to_have_attribute(attribute, value)


def test_picture_and_table_mark_each_other(app: Any, tile: Path) -> None:
    app.segment(tile)
    number = app.page.get_by_label("Mark nucleus number")
    marked = app.page.locator("polygon.marked")
    clicked = app.nuclei.nth(30).get_attribute("data-id")
    app.nuclei.nth(30).click()
    expect(number).to_have_value(clicked)
    expect(marked).to_have_attribute("data-id", clicked)
    # The table draws itself on a canvas; what it says to a screen reader stands in its cells.
    cells = app.page.get_by_test_id("stDataFrame").locator("canvas [role=gridcell]")
    expect(cells.filter(has_text=re.compile(f"^{clicked}$")).first).to_be_attached()
    # A row selects by its box, at the left edge; the second row is the largest nucleus.
    table = app.page.get_by_test_id("stDataFrame").bounding_box()
    app.page.mouse.click(table["x"] + 18, table["y"] + 88)
    expect(number).not_to_have_value(clicked)
    expect(marked).to_have_attribute("data-id", number.input_value())
    # What is typed while the page still draws the row just chosen is overwritten by it.
    for _ in range(4):
        number.fill("3")
        number.press("Enter")
        with contextlib.suppress(AssertionError):
            expect(marked).to_have_attribute("data-id", "3", timeout=20_000)
            break
    expect(marked).to_have_attribute("data-id", "3")


def test_probability_and_distance_maps(app: Any, tile: Path) -> None:
    app.segment(tile)
    shown = app.page.locator("image.map")
    hrefs = set()
    for title, legend in (("Probability", "black is 0"), ("Distance", "black is the edge")):
        app.tick(title)
        app.see(legend)
        expect(shown).to_be_visible()
        hrefs.add(shown.get_attribute("href"))
    assert len(hrefs) == 2
    app.tick("None")
    expect(shown).to_have_count(0)


def test_sliders_answer_when_let_go(app: Any, tile: Path) -> None:
    app.segment(tile)
    for label in ("Threshold", "Least area (µm²)"):
        before = app.count()
        press(app.slider(label), "ArrowRight", 20)
        app.wait_for_count_other_than(before)
        expect(app.nuclei).to_have_count(app.count())


def test_two_models_side_by_side(app: Any, tile: Path) -> None:
    app.segment(tile)
    app.mode("Two models")
    expect(app.picture).to_have_count(2)
    app.see("Difference of the counts")
    expect(app.page.get_by_text(re.compile("Model efficientnetv2b0_unet 1"))).to_be_visible()
    expect(app.page.get_by_text(re.compile("Model strict 1"))).to_be_visible()
    # The chooser of the side bar names the first of the two.
    app.choose("Model", "strict:1.1.0")
    expect(app.page.get_by_text(re.compile("Model strict 1"))).to_have_count(1)
    assert app.barriers() == []


def test_a_batch_tells_its_progress_and_packs_a_zip(
    app: Any, test_data: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    app.mode("Batch")
    app.see("for all files")
    app.drop(*(test_data / "images" / f"nucls_test_{n}.png" for n in (1, 2)), broken)
    app.button("Segment all").click()
    app.see(re.compile(r"\d of 3: "))
    app.see("2 of 3 images segmented.")
    assert app.barriers() == []
    with app.page.expect_download() as download:
        app.page.get_by_role("button", name=re.compile("^Download all")).click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert sorted(archive.namelist()) == [
            "001_nucls_test_1.json", "001_nucls_test_1.overlay.png",
            "002_nucls_test_2.json", "002_nucls_test_2.overlay.png", "summary.csv",
        ]  # fmt: skip
        assert b"broken.png" in archive.read("summary.csv")


def file_review(app: Any, decision: str, reason: str = "") -> None:
    app.tick(decision)
    app.page.get_by_label("Reviewer").fill("pathologist-7")
    app.page.get_by_label("Reason (not needed to accept)").fill(reason)
    app.button("File the review").click()


def test_review_accepts_corrects_the_count_and_rejects(app: Any, tile: Path, stack: Any) -> None:
    app.segment(tile)
    result_id = stack.results()[0]["id"]
    app.tab("Review")
    app.see("not reviewed yet")
    assert app.barriers() == []
    file_review(app, "Accept")
    app.see("Status: final")
    # The form of the state before may still stand for a moment; what is chosen there is lost.
    app.offers_no_longer("Accept")
    app.page.get_by_label("Right count (to correct)", exact=True).fill("120")
    file_review(app, "Correct", "Three are debris.")
    app.see("Status: corrected, 120 nuclei")
    app.chosen("Correct", False)
    file_review(app, "Reject")
    app.see("Say why")
    file_review(app, "Reject", "Out of focus.")
    app.see("Status: cancelled")
    (filed,) = (item for item in stack.results() if item["id"] == result_id)
    assert filed["current"]["status"] == "cancelled"
    assert filed["current"]["review"]["reason"] == "Out of focus."


def test_review_deletes_by_click_and_adds_by_drawing(app: Any, tile: Path, stack: Any) -> None:
    app.segment(tile)
    count, result_id = app.count(), stack.results()[0]["id"]
    app.button("Delete").click()
    app.nuclei.nth(40).click()
    app.see("1 deleted, 0 drawn")
    app.nuclei.nth(50).click()
    app.see("2 deleted, 0 drawn")
    app.page.locator("polygon.deleted").first.click()
    app.see("1 deleted, 0 drawn")

    app.button("Draw").click()
    app.draw_around(300, 150)
    app.see("1 deleted, 1 drawn")
    # Corner by corner, on empty stroma.
    for corner in ((330, 110), (350, 110), (340, 130)):
        app.page.mouse.click(*app.at(*corner))
    app.button("Finish outline").click()
    app.see("1 deleted, 2 drawn")
    # By keys alone: the cross begins in the middle.
    app.frame.focus()
    for key in ("ArrowLeft", "ArrowUp", "ArrowRight"):
        press(app.frame, key, 5)
        app.frame.press("Enter")
    app.frame.press("f")
    app.see("1 deleted, 3 drawn")
    app.button("Undo").click()
    app.see("1 deleted, 2 drawn")
    expect(app.page.locator("polygon.drawn")).to_have_count(2)

    app.tab("Review")
    app.see("Right count, by your changes")
    file_review(app, "Correct", "One is debris, two were missed.")
    app.see(f"Status: corrected, {count + 1:,} nuclei")
    app.see("They are filed.")
    (filed,) = (item for item in stack.results() if item["id"] == result_id)
    assert filed["current"]["count"] == count + 1
    assert filed["document"]["count"] == count, "what the model said stays on record"


def test_every_format_is_downloaded(app: Any, tile: Path) -> None:
    app.segment(tile)
    app.tab("Download")
    beginnings = {"json": b"{", "png": b"\x89PNG", "csv": b"", "hl7": b"MSH|"}
    for title, (_, ending, _) in FORMATS.items():
        app.choose("Format", title)
        name = f"{tile.stem}.{ending}"
        with app.page.expect_download() as download:
            app.page.get_by_role("button", name=f"Download {name} (").click()
        assert download.value.suggested_filename == name
        content = Path(download.value.path()).read_bytes()
        assert len(content) > 900, title
        assert content.startswith(beginnings.get(ending.rpartition(".")[2], b"{")), title
        if content.startswith(b"{"):
            json.loads(content)


@pytest.mark.parametrize("tablet", [(820, 1180), (1180, 820)], indirect=True, ids=str)
def test_on_a_tablet_two_fingers_zoom_and_one_pans_and_taps(tablet: Any, tile: Path) -> None:
    tablet.segment(tile)
    page = tablet.page
    tablet.frame.scroll_into_view_if_needed()
    devtools = page.context.new_cdp_session(page)

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(places)]
        devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    near, far = tablet.at(200, 256), tablet.at(312, 256)
    touch("touchStart", near, far)
    touch("touchMove", tablet.at(144, 256), tablet.at(368, 256))
    touch("touchEnd")
    x, _, width, _ = tablet.view_box()
    assert width == pytest.approx(256, rel=0.1), "fingers twice as far apart"
    touch("touchStart", near)
    touch("touchMove", tablet.at(150, 256))
    touch("touchMove", tablet.at(100, 256))
    touch("touchEnd")
    assert tablet.view_box()[0] > x
    tablet.button("Fit").click()
    expect(tablet.picture).to_have_attribute("viewBox", "0 0 512 512")
    tablet.nuclei.nth(30).tap()
    marked = page.locator("polygon.marked")
    expect(page.get_by_label("Mark nucleus number")).to_have_value(marked.get_attribute("data-id"))
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(overflow) <= 0, "nothing to scroll sideways"
    assert tablet.barriers() == []


def test_files_that_cannot_be_segmented_are_refused_in_plain_words(
    app: Any, tmp_path: Path
) -> None:
    unreadable = tmp_path / "unreadable.png"
    unreadable.write_bytes(b"no image")
    app.drop(unreadable)
    app.see("What to do:")
    app.see("Request")
    app.page.get_by_role("button", name=re.compile("^Remove")).first.click()
    app.see("drop it into the side bar")
    large = tmp_path / "large.png"
    # 81 megapixels in a few kilobytes: refused by its header, before anything is decoded.
    Image.new("1", (9000, 9000)).save(large)
    app.drop(large)
    app.see(re.compile("too large|too many pixels", re.IGNORECASE))
    app.see("What to do:")


def test_a_service_that_restarts_is_waited_for_and_the_image_is_kept(
    app: Any, tile: Path, stack: Any
) -> None:
    app.segment(tile)
    stack.stop_service()
    before = app.count()
    press(app.slider("Threshold"), "ArrowRight", 20)
    app.see(re.compile("The service cannot be reached|The service broke off"))
    app.see("What to do:")
    stack.start_service()
    stack.wait()
    # It goes on by itself, with the image and the threshold that were chosen.
    app.wait_for_count_other_than(before)
    assert float(app.slider("Threshold").input_value()) > 0.61
