"""A batch files each image once and loses none, whatever else is touched meanwhile."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.ui.batch import Batch
from service.ui.batch_view import shown_row
from service.ui.client import KaryonClient
from service.ui.pictures import Picture

App = Callable[..., Any]


class Touched(Exception):  # noqa: N818  it is no error
    """Stands for the user's click that ends a run of the script in the middle."""


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, str]]]:
    """Name and parameters of each image that was sent."""
    told: list[tuple[str, dict[str, str]]] = []
    send = KaryonClient.segment

    def segment(self: KaryonClient, image: bytes, name: str, *rest: Any) -> bytes:
        told.append((name, rest[0]))
        return send(self, image, name, *rest)

    monkeypatch.setattr(KaryonClient, "segment", segment)
    return told


@pytest.fixture
def page(app: App, test_data: Path) -> Any:
    """The page of the batch, with two images dropped."""
    test = app(sample=None)
    test.get("button_group")[0].set_value("Batch").run()
    names = ("nucls_test_1.png", "nucls_test_2.png")
    files = [(name, (test_data / "images" / name).read_bytes(), "image/png") for name in names]
    test.file_uploader(key="batch files").set_value(files).run()
    return test


def texts(test: Any) -> str:
    return "\n".join(item.value for item in (*test.markdown, *test.caption, *test.info))


def test_each_image_is_filed_once(page: Any, sent: list[Any]) -> None:
    page.button(key="run batch").click().run()
    assert not page.exception
    assert [name for name, _ in sent] == ["nucls_test_1.png", "nucls_test_2.png"]
    assert "**2** of 2 images segmented" in texts(page)
    page.run()
    assert len(sent) == 2


def test_a_batch_that_something_interrupts_goes_on_where_it_stood(
    page: Any, sent: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = page.selectbox(key="model").value
    with monkeypatch.context() as patched:

        def interrupt(*_: object) -> Any:
            raise Touched

        # The moment after the first image, where Streamlit ends a run for the next one.
        patched.setattr("service.ui.batch_view.progress_text", interrupt)
        page.button(key="run batch").click().run()
        assert page.exception
    assert page.button(key="run batch")
    # What was touched: the images after it are segmented as the first one was.
    page.slider(key=f"threshold {model}").set_value(0.9).run()
    assert not page.exception
    assert [name for name, _ in sent] == ["nucls_test_1.png", "nucls_test_2.png"]
    assert "**2** of 2 images segmented" in texts(page)
    assert sent[0][1] == sent[1][1]
    assert "before" in texts(page), "they are not of the threshold that is set now"


def test_a_second_click_starts_no_second_batch(page: Any, sent: list[Any]) -> None:
    started = page.button(key="run batch")
    nowhere, waiting = KaryonClient("http://127.0.0.1:9"), [Picture("a.png", b"")]
    page.session_state["batch"] = Batch(nowhere, waiting, {"model": "tiny:1.1.0"}, {}, "earlier")
    started.click().run()
    assert not page.exception
    assert sent == [("a.png", sent[0][1])], "it goes on with what the first click began"


def test_results_of_other_files_say_so(page: Any) -> None:
    page.button(key="run batch").click().run()
    assert "before" not in texts(page)
    page.file_uploader(key="batch files").set_value([("b.png", b"x", "image/png")]).run()
    assert "of the files and choices before" in texts(page)


def test_a_batch_that_is_stopped_keeps_what_it_has(page: Any, sent: list[Any]) -> None:
    page.button(key="run batch").click().run()
    batch = page.session_state["batch"]
    batch.waiting.append(Picture("c.png", b""))
    batch.stop()
    page.run()
    assert "**2** of 3 images segmented" in texts(page)
    assert len(sent) == 2


def test_the_table_is_for_people() -> None:
    """A box that cannot be ticked, four decimals and "None" are for programs, in the ZIP."""
    row = {
        "file": "a.png",
        "count": 26,
        "count_lower": None,
        "count_upper": None,
        "density_per_mm2": 6347.6563,
        "review_recommended": False,
        "id": "5a",
        "error": None,
    }
    shown = shown_row(row)
    assert (shown["Review recommended"], shown["Error"]) == ("no", "")
    assert shown_row({**row, "review_recommended": True})["Review recommended"] == "yes"
    failed = shown_row({**dict.fromkeys(row), "file": "b.png", "error": "Not an image"})
    assert (failed["Review recommended"], failed["Error"]) == (None, "Not an image")
