"""The app's script against a real service, as far as it goes without a browser."""

import http.server
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import httpx2 as httpx
import pytest

from service.ui import words
from service.ui.client import KaryonClient, ServiceError
from service.ui.download_view import FORMATS

App = Callable[..., Any]


def count_of(test: Any) -> int:
    return int(test.metric[0].value.replace(",", ""))


def texts(test: Any) -> str:
    shown = [
        *test.markdown,
        *test.error,
        *test.warning,
        *test.info,
        *test.caption,
        *test.get("html"),
    ]
    return "\n".join(str(getattr(item, "value", None) or item.proto.body) for item in shown)


def give_accession(test: Any, number: str) -> None:
    next(item for item in test.text_input if item.label == "Accession").set_value(number)
    next(item for item in test.button if item.label == "Use this case").click().run()


def last_result(url: str) -> dict[str, Any]:
    with httpx.Client(base_url=url) as client:
        result: dict[str, Any] = client.get("/results", params={"limit": 1}).json()["results"][0]
    return result


def test_without_an_image_it_asks_for_one_and_says_what_it_is_for(app: App) -> None:
    test = app(sample=None)
    assert not test.exception
    assert words.RESEARCH_USE_ONLY in texts(test)
    assert "choose a sample" in texts(test)


def test_a_sample_is_counted_with_what_the_figures_rest_on(app: App) -> None:
    test = app()
    assert not test.exception
    assert count_of(test) > 5
    assert "Count interval: none stated" in texts(test)
    assert "only assumed" in texts(test)
    assert "CC0" in texts(test)
    assert test.metric[1].value == "unknown"
    table = test.dataframe[0].value
    assert len(table) == count_of(test)


def test_resolution_gives_densities(app: App) -> None:
    test = app()
    test.number_input(key="mpp").set_value(0.25).run()
    assert "/mm²" in test.metric[1].value
    assert "as you gave it" in texts(test)


def test_sliders_answer_and_send_only_what_differs(app: App, running_service: Any) -> None:
    test = app()
    before = count_of(test)
    model = test.selectbox(key="model").value
    test.slider(key=f"area {model}").set_value(30.0).run()
    assert count_of(test) < before
    parameters = last_result(running_service.url)["document"]["parameters"]
    assert parameters["min_area_px"] == pytest.approx(30.0 / 0.25**2)
    test.slider(key=f"threshold {model}").set_value(0.9).run()
    assert last_result(running_service.url)["document"]["parameters"]["threshold"] == 0.9


def test_an_unchanged_choice_files_no_second_result(app: App, running_service: Any) -> None:
    test = app()
    first = last_result(running_service.url)["id"]
    test.slider(key="thickness").set_value(4.0).run()
    test.selectbox(key="colour").select("Cyan").run()
    assert last_result(running_service.url)["id"] == first


def test_a_nucleus_is_marked_by_its_number(app: App) -> None:
    test = app()
    test.number_input(key="nucleus").set_value(3).run()
    assert not test.exception
    assert test.session_state["nucleus"] == 3
    model = test.selectbox(key="model").value
    test.slider(key=f"area {model}").set_value(100.0).run()
    assert not test.exception, "the marked nucleus is gone"


@pytest.mark.parametrize(("title", "legend"), [("Probability", "black is 0"), ("Distance", "edge")])
def test_maps_over_the_image(app: App, running_service: Any, title: str, legend: str) -> None:
    test = app()
    test.radio(key="map").set_value(title).run()
    assert not test.exception
    assert not test.error
    assert legend in texts(test)
    assert last_result(running_service.url)["document"]["parameters"]["mask"] == title.lower()
    test.selectbox(key="model").select("tiny_onechannel:1.0.0").run()
    assert test.radio(key="map").options == ["None", "Probability"], "it has no distance map"


def test_two_models_side_by_side(app: App) -> None:
    test = app()
    test.get("button_group")[0].set_value("Two models").run()
    assert not test.exception
    test.selectbox(key="second model").select("tiny_onechannel:1.0.0").run()
    assert len(test.metric) == 6
    assert "Difference of the counts" in texts(test)


def test_every_format_is_offered_and_made(app: App) -> None:
    test = app()
    sizes = set()
    for title in FORMATS:
        test.selectbox(key="format").select(title).run()
        assert not test.exception
        assert not test.error, title
        sizes.add(test.get("download_button")[0].proto.label)
    assert len(sizes) > len(FORMATS) / 2, "each is another file"


def test_identifiers_are_filed(app: App, running_service: Any) -> None:
    test = app(sample=None)
    give_accession(test, "S26-77")
    test.selectbox(key="sample").select_index(1).run()
    assert last_result(running_service.url)["accession"] == "S26-77"


def test_a_refusal_says_what_to_do(app: App) -> None:
    test = app()
    give_accession(test, "no good!")
    assert not test.exception
    (error,) = test.error
    assert "accession" in error.value
    assert "What to do" in error.value
    assert "Request" in error.value


def review(test: Any, decision: str, reviewer: str, reason: str) -> None:
    next(item for item in test.radio if item.label == "Decision").set_value(decision)
    test.text_input(key="reviewer").set_value(reviewer)
    test.text_area[0].set_value(reason)
    next(item for item in test.button if item.label == "File the review").click().run()


def test_nothing_is_decided_for_the_reviewer(app: App, running_service: Any) -> None:
    test = app()
    (before,) = (item for item in test.radio if item.label == "Decision")
    _, filed, status = before.key.split()
    assert (status, before.value) == ("preliminary", None)
    test.text_input(key="reviewer").set_value("pathologist-7")
    next(item for item in test.button if item.label == "File the review").click().run()
    assert "Say what you decide" in texts(test)
    client = KaryonClient(running_service.url)
    assert client.result(filed)[0]["current"]["status"] == "preliminary"
    review(test, "Accept", "pathologist-7", "")
    assert client.result(filed)[0]["current"]["status"] == "final"
    # The browser sends the place of a choice: the second place is "Correct" in the first list and
    # "Reject" in the second, so a late click on the first must be none on the second.
    (after,) = (item for item in test.radio if item.label == "Decision")
    assert (before.options[1], after.options[1]) == ("Correct", "Reject")
    assert after.key != before.key
    assert after.value is None


def test_review_corrects_the_count_then_rejects(app: App, running_service: Any) -> None:
    test = app(sample="512")
    filed = last_result(running_service.url)["id"]
    test.number_input(key=f"right_count {filed}").set_value(77)
    review(test, "Correct", "pathologist-7", "")
    assert "Say why" in texts(test)
    test.number_input(key=f"right_count {filed}").set_value(77)
    review(test, "Correct", "pathologist-7", "Two split by hand.")
    assert not test.exception
    current = last_result(running_service.url)["current"]
    assert (current["status"], current["count"]) == ("corrected", 77)
    assert "Status: **corrected**, 77 nuclei" in texts(test)

    # Somebody else decides meanwhile: what this reviewer has not seen is not overwritten.
    client = KaryonClient(running_service.url)
    other = {"decision": "edit", "count": 78, "reviewer": "pathologist-8", "reason": "One more."}
    client.review(filed, '"2"', other)
    review(test, "Reject", "pathologist-7", "Out of focus.")
    assert last_result(running_service.url)["current"]["status"] != "cancelled"
    next(item for item in test.button if item.label.startswith("Show how")).click().run()
    assert "pathologist-8" in texts(test)
    review(test, "Reject", "pathologist-7", "Out of focus.")
    assert last_result(running_service.url)["current"]["status"] == "cancelled"
    assert "Decision" not in [item.label for item in test.radio], (
        "a cancelled result takes no review"
    )


def test_the_key_is_asked_for_only_where_the_service_does(
    app: App, guarded_service: tuple[Any, str]
) -> None:
    assert not [item for item in app().text_input if item.key == "api_key"]
    running, key = guarded_service
    test = app(url=running.url, sample=None)
    assert "credential" in texts(test)
    test.text_input(key="api_key").set_value(key).run()
    assert not test.error
    test.selectbox(key="sample").select_index(1).run()
    assert count_of(test) > 5
    test.text_input(key="api_key").set_value("wrong").run()
    assert "expired or revoked" in texts(test)


def test_an_absent_service_is_named_with_the_remedy(
    app: App, running_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = app(url="http://127.0.0.1:9", sample=None)
    assert "make serve" in texts(test)
    monkeypatch.setenv("KARYON_URL", running_service.url)
    test.button(key="try again").click().run()
    assert "choose a sample" in texts(test)
    with pytest.raises(ServiceError, match="cannot be reached"):
        KaryonClient("http://127.0.0.1:9").models()


class _Stranger(http.server.BaseHTTPRequestHandler):
    """Some other server, at the address where the service should be."""

    cookies: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.cookies.append(self.headers.get("Cookie"))
        answers = {"/models": (200, b"<p>Hello</p>"), "/busy/models": (503, b"{}")}
        status, body = answers.get(self.path, (200, b"[]"))
        self.send_response(status)
        if status == 503:
            self.send_header("Retry-After", "3600")
        self.send_header("Set-Cookie", "login=somebody")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_another_server_is_not_taken_for_the_service(app: App) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Stranger) as stranger:
        threading.Thread(target=stranger.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{stranger.server_port}"
        for address in (url, f"{url}/list", f"{url}/busy"):
            with pytest.raises(ServiceError, match="none of Karyon's"):
                KaryonClient(address).models()
        test = app(url=url, sample=None)
        assert not test.exception
        assert "names the service itself" in texts(test)
        stranger.shutdown()
    assert set(_Stranger.cookies) == {None}, "the users of the app share its connections"
    with pytest.raises(ServiceError, match="cannot be reached"):
        KaryonClient("127.0.0.1:8000").models()
