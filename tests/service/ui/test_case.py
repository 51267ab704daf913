"""What is typed for one image stays with that image."""

from collections.abc import Callable
from typing import Any

import httpx2 as httpx
import pytest

from service.ui import session, sidebar
from service.ui.client import KaryonClient

App = Callable[..., Any]


def case_field(test: Any, label: str) -> Any:
    return next(item for item in test.text_input if item.label == label)


def choose_other(test: Any) -> None:
    select = test.selectbox(key="sample")
    select.select(next(title for title in select.options if title != select.value)).run()


def give_accession(test: Any, number: str) -> None:
    case_field(test, "Accession").set_value(number)
    next(item for item in test.button if item.label == "Use this case").click().run()


def shown_case(test: Any) -> str:
    """What the figures say of the case."""
    notes = "".join(item.proto.body for item in test.get("html"))
    return notes.partition("Case: ")[2].partition(".</p>")[0]


def captions(test: Any) -> str:
    return "\n".join(item.value for item in test.caption)


def filed_accession(url: str, result_id: str) -> str | None:
    accession: str | None = KaryonClient(url).result(result_id)[0]["accession"]
    return accession


def test_the_case_of_one_image_is_not_filed_with_the_next(app: App, running_service: Any) -> None:
    test = app()
    give_accession(test, "S26-A")
    first = test.session_state["shown result"]
    assert filed_accession(running_service.url, first) == "S26-A"
    assert shown_case(test) == "accession S26-A"
    choose_other(test)
    assert case_field(test, "Accession").value == ""
    assert shown_case(test) == "none"
    assert filed_accession(running_service.url, test.session_state["shown result"]) is None
    # The same case is one click away, and the first image keeps its own.
    next(item for item in test.button if item.label.startswith("Same case")).click().run()
    assert shown_case(test) == "accession S26-A"
    give_accession(test, "S26-B")
    choose_other(test)
    assert case_field(test, "Accession").value == "S26-A"
    assert shown_case(test) == "accession S26-A"
    assert test.session_state["shown result"] == first


def test_a_case_that_was_typed_before_the_image_is_its_own(app: App, running_service: Any) -> None:
    test = app(sample=None)
    give_accession(test, "S26-C")
    test.selectbox(key="sample").select_index(0).run()
    shown = test.session_state["shown result"]
    assert filed_accession(running_service.url, shown) == "S26-C"
    choose_other(test)
    assert shown_case(test) == "none"


def test_the_batch_has_a_case_of_its_own(app: App) -> None:
    test = app()
    give_accession(test, "S26-D")
    test.get("button_group")[0].set_value("Batch").run()
    assert case_field(test, "Accession").value == ""
    assert "Case: none." in captions(test)
    test.get("button_group")[0].set_value("One image").run()
    assert not test.exception


def test_a_case_is_filed_once_when_all_of_it_is_typed(app: App) -> None:
    test = app()
    for label in ("Accession", "Specimen", "Order"):
        field = case_field(test, label)
        assert field.proto.form_id, f"{label} alone would file a result under half a case"


def test_a_map_that_is_looked_at_is_no_second_result_of_the_case(
    app: App, running_service: Any
) -> None:
    test = app()
    give_accession(test, "S26-MAP")
    test.radio(key="map").set_value("Probability").run()
    assert not test.error
    with httpx.Client(base_url=running_service.url) as client:
        filed = client.get("/results", params={"accession": "S26-MAP"}).json()["results"]
    assert len(filed) == 1


def test_a_resolution_that_was_given_for_another_image_says_so(app: App) -> None:
    test = app()
    test.number_input(key="mpp").set_value(0.25).run()
    assert "given for another image" not in captions(test)
    choose_other(test)
    assert "0.25 was given for another image" in captions(test)
    test.number_input(key="mpp").set_value(0.5).run()
    assert "given for another image" not in captions(test)


@pytest.mark.parametrize("own", [0.97, 0.455])
def test_any_calibrated_threshold_can_be_shown_and_returned_to(
    app: App, monkeypatch: pytest.MonkeyPatch, own: float
) -> None:
    def models(url: str, key: str) -> list[dict[str, Any]]:
        listed = session.loaded_models(url, key)
        for item in listed:
            item["contract"]["separation"]["probability_threshold"] = own
        return listed

    monkeypatch.setattr(sidebar, "loaded_models", models)
    test = app()
    assert not test.exception
    before = test.session_state["shown result"]
    slider = next(item for item in test.slider if item.label == "Threshold")
    # Where the slider stops next to the model's own value, which it shows with two digits.
    slider.set_value(round(own + 1e-9, 2)).run()
    assert test.session_state["shown result"] == before
