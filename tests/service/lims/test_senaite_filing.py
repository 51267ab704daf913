"""Whatever people and kills do: each version is submitted once, and nobody's value is touched."""

from types import ModuleType
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.lims.outcome import Outcome
from service.lims.senaite_filing import Analysis, Update, Wanted, next_step

RESULT = "a" * 32
VALUES = {1: "14", 2: "17", 3: None, 4: "18"}
TYPED = "150"
EVENTS = st.lists(
    st.sampled_from(
        ["send", "killed", "half", "next", "retract", "verify", "type", "submit", "invalidate"]
    ),
    max_size=14,
)


class Story:
    """One sample, one result with four states, and what happens to them."""

    def __init__(self, example: ModuleType) -> None:
        self.example = example
        self.laboratory = example.Laboratory()
        self.sample = self.laboratory.register("S", "NUC")
        self.version = 1
        self.submitted: list[int] = []
        self.typed: set[str] = set()

    def wanted(self) -> Wanted:
        return Wanted("NUC", VALUES[self.version], RESULT, self.version, f"{self.version:032x}")

    def step(self) -> Update | Outcome:
        items = self.laboratory.items
        samples = {item["id"]: item for item in items.values() if "getClientSampleID" in item}
        return next_step(
            [
                Analysis(
                    uid=item["uid"],
                    state=item["review_state"],
                    result=item["Result"],
                    remarks=item["Remarks"],
                    retest_of=item["getRetestOfUID"] or None,
                    in_void_sample=samples[item["getRequestID"]]["review_state"] == "invalid",
                )
                for item in self.laboratory.analyses("S", "NUC")
            ],
            self.wanted(),
        )

    def send(self, *, most: int = 4, submits: bool = True) -> Outcome | None:
        """Write at most so often, then be killed."""
        for _ in range(most):
            step = self.step()
            if isinstance(step, Outcome):
                return step
            assert step.uid not in self.typed, "somebody's value is overwritten"
            record = {"uid": step.uid, **step.fields}
            if step.transition is not None and submits:
                record["transition"] = step.transition
            self.laboratory.update(record)
            if record.get("transition") == "submit":
                self.submitted.append(self.version)
        return None

    def person(self, event: str) -> None:
        """Do what somebody can do to the newest analysis, or to the sample."""
        newest = self.laboratory.analyses("S", "NUC")[-1]
        record: dict[str, Any] = {"uid": newest["uid"], "transition": event}
        if event == "type":
            record = {"uid": newest["uid"], "Result": TYPED}
        if event == "invalidate":
            record["uid"] = self.sample
        try:
            self.laboratory.update(record)
        except self.example.RefusedError:
            return
        if event == "type":
            self.typed.add(newest["uid"])

    def live(self) -> int:
        voids = {
            item["id"]
            for item in self.laboratory.items.values()
            if item["review_state"] == "invalid"
        }
        return sum(
            item["review_state"] in {"to_be_verified", "verified"}
            and item["getRequestID"] not in voids
            for item in self.laboratory.analyses("S", "NUC")
        )


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(events=EVENTS)
def test_each_version_once_and_nobodys_value_touched(
    senaite: ModuleType, events: list[str]
) -> None:
    story = Story(senaite)
    for event in events:
        match event:
            case "send":
                story.send()
            case "killed":
                story.send(most=1)
            case "half":
                # SENAITE keeps the fields and refuses the transition.
                story.send(most=1, submits=False)
            case "next":
                story.send()
                story.version = min(story.version + 1, max(VALUES))
            case _:
                story.person(event)
        assert story.live() <= 1
    outcome = story.send()
    assert isinstance(outcome, Outcome), "it comes to an end"
    assert len(story.submitted) == len(set(story.submitted)), "a version is submitted twice"
    standing = {item["uid"]: item["Result"] for item in story.laboratory.analyses("S", "NUC")}
    assert all(standing[uid] == TYPED for uid in story.typed)
    assert story.step() == outcome, "what is done stays done"
