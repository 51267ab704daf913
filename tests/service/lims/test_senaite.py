"""The SENAITE adapter against a real server of the documented JSON API: each value once."""

import asyncio
import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from service.lims.adapters import open_adapter
from service.lims.connection import ForbiddenAddressError
from service.lims.destinations import Destination
from service.lims.messages import Message
from service.lims.outcome import Outcome
from service.lims.senaite import SenaiteAdapter, UnusableAnswerError
from service.lims.senaite_filing import Analysis, Update, Wanted, next_step
from service.outputs.codes import LOCAL_REPORTING
from service.records.outbox import delivery_id
from service.records.results import RecordedResult, ResultVersion

Serve = Callable[[Any], int]
SAMPLE = "S26-1234"  # the accession of docs/lims/result.json
OTHER = "f" * 32
FILED = Outcome("accepted", "filed")
BEFORE = Outcome("accepted", "filed before")


def destination(port: int, **members: Any) -> Any:
    return TypeAdapter(Destination).validate_python(
        {
            "name": "lims",
            "kind": "senaite",
            "url": f"http://127.0.0.1:{port}/senaite/",
            "user": "karyon",
            "password": "secret",
            "count_keyword": "NUC",
            "allow_private": True,
            **members,
        }
    )


@pytest.fixture(scope="module")
def document(repository: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((repository / "docs" / "lims" / "result.json").read_bytes())
    # Whatever the embedded model counts in the example: the values below are of this one.
    return {**loaded, "count": 14, "density_per_mm2": 8750.0}


class Case:
    """A laboratory, the adapter that files into it, and one result."""

    def __init__(self, laboratory: Any, adapter: SenaiteAdapter, document: dict[str, Any]) -> None:
        self.laboratory, self.adapter, self.document = laboratory, adapter, document

    def message(
        self, version: int, status: str = "preliminary", count: int = 14, **changes: Any
    ) -> Message:
        document = {**self.document, **changes}
        identity = document["identity"]
        reviewer = None if version == 1 else "r-1"
        state = ResultVersion(
            version, document["created_utc"], "key:1", status, count, None, reviewer
        )
        result = RecordedResult(
            id=document["id"],
            sequence=1,
            caller="key:1",
            accession=identity["accession"],
            specimen_id=identity["specimen_id"],
            order_id=identity["order_id"],
            pixel_sha256="b" * 64,
            software={},
            document=document,
            current=state,
        )
        return self.adapter.message(delivery_id(result.id, version, "lims"), result, state)

    def send(self, *version: Any, **changes: Any) -> Outcome:
        return asyncio.run(self.adapter.send(self.message(*version, **changes)))

    def standing(self, keyword: str = "NUC") -> list[tuple[str, str]]:
        return [
            (item["review_state"], item["Result"])
            for item in self.laboratory.analyses(SAMPLE, keyword)
        ]

    def person(self, which: int, **record: Any) -> None:
        """What somebody does to an analysis in SENAITE."""
        uid = self.laboratory.analyses(SAMPLE, "NUC")[which]["uid"]
        self.laboratory.update({"uid": uid, **record})


@pytest.fixture
def case(senaite: ModuleType, serve: Serve, document: dict[str, Any]) -> Case:
    """A sample that was received, with analyses NUC and DENS."""
    laboratory = senaite.Laboratory()
    laboratory.register("S26-0001", "NUC", "DENS")
    laboratory.register(SAMPLE, "NUC", "DENS")
    port = serve(senaite.senaite_server(0, laboratory, "karyon", "secret"))
    adapter = open_adapter(destination(port), LOCAL_REPORTING)
    assert isinstance(adapter, SenaiteAdapter)
    return Case(laboratory, adapter, document)


def lose_answers(case: Case, senaite: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every update is done, and none is acknowledged: a kill between their write and our note."""
    really = case.laboratory.update

    def update(record: dict[str, Any]) -> None:
        really(record)
        raise senaite.RefusedError("gone", 503)

    monkeypatch.setattr(case.laboratory, "update", update)


def test_count_and_density_are_submitted_once(case: Case) -> None:
    both = case.adapter._destination.model_copy(update={"density_keyword": "DENS"})
    case.adapter = SenaiteAdapter(both)
    assert case.send(1) == FILED
    assert case.standing() == [("to_be_verified", "14")]
    assert case.standing("DENS") == [("to_be_verified", "8750.0")]
    (analysis,) = case.laboratory.analyses(SAMPLE, "NUC")
    key = delivery_id(case.document["id"], 1, "lims")
    mark = f"Karyon result {case.document['id']} version 1 value 14 delivery {key}"
    assert analysis["Remarks"] == mark
    writes = len(case.laboratory.updates)
    assert case.send(1) == BEFORE
    assert len(case.laboratory.updates) == writes
    assert all(item["Result"] == "" for item in case.laboratory.analyses("S26-0001", "NUC"))


def test_no_density_without_resolution(case: Case) -> None:
    case.adapter = SenaiteAdapter(
        case.adapter._destination.model_copy(update={"density_keyword": "DENS"})
    )
    assert case.send(1, density_per_mm2=None) == FILED
    assert case.standing("DENS") == [("unassigned", "")]


def test_a_lost_answer_files_once(
    case: Case, senaite: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        lose_answers(case, senaite, patch)
        assert case.send(1) == Outcome("retry", "HTTP 503")
    assert case.send(1) == BEFORE
    assert case.standing() == [("to_be_verified", "14")]
    # Also where a person has taken it back meanwhile: their retest stays theirs.
    case.person(0, transition="retract")
    assert case.send(1) == BEFORE
    assert case.standing() == [("retracted", "14"), ("unassigned", "")]


def test_a_refused_transition_is_made_up_for(
    case: Case, senaite: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise senaite.RefusedError("Failed to perform transition")

    with monkeypatch.context() as patch:
        patch.setattr(case.laboratory, "_transition", refuse)
        assert case.send(1) == Outcome("retry", "SENAITE refused the update")
    # The fields were kept all the same.
    assert case.standing() == [("unassigned", "14")]
    assert case.send(1) == FILED
    assert case.standing() == [("to_be_verified", "14")]


def test_a_correction_replaces_what_awaits_verification(
    case: Case, senaite: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.person(0, Remarks="thick section")
    case.send(1)
    with monkeypatch.context() as patch:
        lose_answers(case, senaite, patch)
        assert case.send(2, "corrected", 17).kind == "retry"
        # Killed between the two writes of a correction.
        assert case.standing() == [("retracted", "14"), ("unassigned", "")]
        assert case.send(2, "corrected", 17).kind == "retry"
    for _ in range(2):
        assert case.send(2, "corrected", 17) == BEFORE
    assert case.standing() == [("retracted", "14"), ("to_be_verified", "17")]
    remarks = case.laboratory.analyses(SAMPLE, "NUC")[1]["Remarks"].splitlines()
    assert remarks[0] == "thick section"
    assert [" version 2 " in line for line in remarks] == [False, True]


def test_an_accepted_result_changes_nothing(case: Case) -> None:
    case.send(1)
    assert case.send(2, "final", 14) == Outcome("accepted", "holds the value, to_be_verified")
    case.person(0, transition="verify")
    assert case.send(2, "final", 14) == Outcome("accepted", "holds the value, verified")
    assert len(case.standing()) == 1


def test_a_rejected_result_is_taken_back(case: Case) -> None:
    case.send(1)
    assert case.send(2, "cancelled") == FILED
    assert case.standing() == [("retracted", "14"), ("unassigned", "")]
    assert case.send(2, "cancelled").kind == "accepted"
    # A person counts by hand; the copied line in Remarks does not make it ours.
    case.person(1, Result="150", transition="submit")
    assert case.send(2, "cancelled").kind == "accepted"
    assert case.send(3, "corrected", 17).kind == "refused"
    assert case.standing()[1] == ("to_be_verified", "150")


def test_a_value_that_was_never_submitted_is_cleared(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(case.laboratory, "_transition", lambda *_: None)
        assert case.send(1) == Outcome("retry", "SENAITE said yes and did not do it")
    assert case.send(2, "cancelled").kind == "accepted"
    assert case.standing() == [("unassigned", "")]


@pytest.mark.parametrize("status", ["corrected", "cancelled"])
def test_what_is_verified_is_not_touched(case: Case, status: str) -> None:
    case.send(1)
    case.person(0, transition="verify")
    outcome = case.send(2, status, 17)
    assert outcome.kind == "refused"
    assert "an earlier value is verified" in outcome.said
    assert "resend" in outcome.said
    assert case.standing() == [("verified", "14")]
    # The remedy: the sample is invalidated, and a copy of it follows, results and remarks too.
    invalidate(case)
    assert case.standing() == [("verified", "14"), ("unassigned", "14")]
    for _ in range(2):
        assert case.send(2, status, 17).kind == "accepted"
    again = ("unassigned", "") if status == "cancelled" else ("to_be_verified", "17")
    assert case.standing() == [("verified", "14"), again]


def invalidate(case: Case) -> None:
    (analysis,) = case.laboratory.analyses(SAMPLE, "NUC")
    sample = next(i for i in case.laboratory.items.values() if i["id"] == analysis["getRequestID"])
    case.laboratory.update({"uid": sample["uid"], "transition": "invalidate"})


@pytest.mark.parametrize("status", ["corrected", "cancelled"])
def test_what_a_person_typed_over_a_copy_stays(case: Case, status: str) -> None:
    case.send(1)
    case.person(0, transition="verify")
    invalidate(case)
    case.person(1, Result="150")
    assert case.send(2, status, 17).kind == ("accepted" if status == "cancelled" else "refused")
    assert case.standing() == [("verified", "14"), ("unassigned", "150")]


def test_nobody_elses_value_is_overwritten(case: Case) -> None:
    case.person(0, Result="150")
    assert "value of somebody else" in case.send(1).said
    case.person(0, transition="submit")
    assert "another result" in case.send(1).said
    case.person(0, transition="retract")
    assert case.send(1) == FILED
    assert "another result" in case.send(1, id=OTHER).said
    assert case.standing()[1] == ("to_be_verified", "14")


def test_two_results_of_one_sample_at_once(case: Case) -> None:
    async def both() -> list[Outcome]:
        messages = (case.message(1), case.message(1, id=OTHER, count=15))
        return await asyncio.gather(*map(case.adapter.send, messages))

    assert sorted(outcome.kind for outcome in asyncio.run(both())) == ["accepted", "refused"]
    assert len(case.standing()) == 1


def test_samples_that_are_not_there_yet(case: Case, document: dict[str, Any]) -> None:
    later = {"identity": {**document["identity"], "accession": "S26-9"}}
    assert case.send(1, **later) == Outcome("retry", "SENAITE shows no such sample yet")
    # A rejected one neither: that nothing is shown does not prove that nothing stands.
    assert case.send(2, "cancelled", **later).kind == "retry"
    sample = case.laboratory.register("S26-9", "NUC", received=False)
    assert case.send(1, **later) == Outcome("retry", "the sample is not received yet")
    case.laboratory.update({"uid": sample, "transition": "receive"})
    assert case.send(1, **later) == FILED
    case.laboratory.register("S26-10")
    empty = case.send(1, identity={**document["identity"], "accession": "S26-10"})
    assert empty == Outcome("refused", "the sample has no analysis NUC: add it, then resend")
    nameless = case.send(1, identity={**document["identity"], "accession": None})
    assert nameless.kind == "refused"


def test_the_sample_by_its_own_id(case: Case, document: dict[str, Any]) -> None:
    own = {"sample_by": "sample_id", "sample_from": "specimen_id"}
    case.adapter = SenaiteAdapter(case.adapter._destination.model_copy(update=own))
    assert case.send(1, identity={**document["identity"], "specimen_id": "HE-0002"}) == FILED
    assert case.standing() == [("to_be_verified", "14")]


def test_a_search_that_finds_everything_is_not_believed(
    case: Case, senaite: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    # SENAITE leaves out what is no index of the catalog.
    monkeypatch.setitem(senaite.INDEXES, "senaite_catalog_sample", {"portal_type"})
    with pytest.raises(UnusableAnswerError, match="not asked for"):
        case.send(1)
    assert case.standing() == [("unassigned", "")]


@pytest.mark.parametrize(
    ("status", "headers", "body", "outcome"),
    [
        (401, {}, b"{}", Outcome("refused", "HTTP 401")),
        (429, {"Retry-After": "90"}, b"", Outcome("retry", "HTTP 429", 90.0)),
        (302, {"Location": "/login"}, b"", Outcome("retry", "HTTP 302")),
        (500, {}, b"{}", Outcome("retry", "HTTP 500")),
        (200, {}, b'{"success": false}', Outcome("retry", "SENAITE refused the search")),
        (200, {}, b"<html>log in</html>", None),
        (200, {}, b"[]", None),
        (200, {}, b'{"items": {}}', None),
    ],
)
def test_other_answers(
    case: Case,
    serve: Serve,
    status: int,
    headers: dict[str, str],
    body: bytes,
    outcome: Outcome | None,
) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    port = serve(HTTPServer(("127.0.0.1", 0), Handler))
    case.adapter = SenaiteAdapter(destination(port))
    if outcome is None:
        with pytest.raises(UnusableAnswerError):
            case.send(1)
    else:
        assert case.send(1) == outcome


def test_guard_and_credentials(case: Case, senaite: ModuleType, serve: Serve) -> None:
    port = serve(senaite.senaite_server(0, case.laboratory, "karyon", "secret"))
    case.adapter = SenaiteAdapter(destination(port, allow_private=False))
    with pytest.raises(ForbiddenAddressError):
        case.send(1)
    case.adapter = SenaiteAdapter(destination(port, user="nobody"))
    assert case.send(1) == Outcome("refused", "HTTP 401")
    assert "secret" not in repr(destination(port))


@pytest.mark.parametrize(
    "members",
    [
        {"user": "a:b"},
        {"count_keyword": "N C"},
        {"count_keyword": None},
        {"url": "http://user:pw@h/"},
        {"url": "http://h/senaite?came_from=x"},
        {"sample_by": "title"},
    ],
)
def test_destinations_that_are_refused(members: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        destination(1, **members)


def test_what_people_wrote_in_remarks_stays() -> None:
    wanted = Wanted("NUC", "14", "a" * 32, 2, "c" * 32)
    before = (
        f"thick<br />Karyon result {'a' * 32} version 1 value 9 delivery {'b' * 32}<br />\nfolded"
    )
    step = next_step([Analysis("1", "unassigned", remarks=before)], wanted)
    assert isinstance(step, Update)
    assert step.fields["Remarks"] == f"thick<br /><br />\nfolded\n{wanted.mark}"


def test_two_open_analyses_are_not_chosen_between() -> None:
    wanted = Wanted("NUC", "14", "a" * 32, 1, "k" * 32)
    two = [Analysis("1", "unassigned"), Analysis("2", "assigned")]
    step = next_step(two, wanted)
    assert isinstance(step, Outcome)
    assert step.kind == "refused"
    void = Analysis("2", "unassigned", in_void_sample=True)
    assert isinstance(next_step([two[0], void], wanted), Update)
    assert next_step([void], wanted) == Outcome(
        "refused", "the analysis was retracted and has no retest: add it, then resend"
    )
