"""A person's word on the result that is shown: accept it, correct the count, or reject it."""

from typing import Any

import streamlit as st

from service.ui.client import ServiceError
from service.ui.drawing import Answer
from service.ui.session import Choices, show_error

DECISIONS = {"Accept": "accept", "Correct the count": "edit", "Reject": "reject"}
_ALLOWED = {
    "preliminary": list(DECISIONS),
    "final": ["Correct the count", "Reject"],
    "corrected": ["Correct the count", "Reject"],
    "cancelled": [],
}
_STALE = 412


def show_review(choices: Choices, answer: Answer) -> None:
    """Show where the result stands, and file a decision against the state that is shown.

    The entity tag is of the state that the reviewer sees, and changes only when they see another:
    a review that somebody else filed in between is refused, never overwritten.
    """
    seen_key = f"seen {answer['id']}"
    if seen_key not in st.session_state:
        try:
            st.session_state[seen_key] = choices.client.result(answer["id"])
        except ServiceError as error:
            show_error(error)
            return
    result, etag = st.session_state[seen_key]
    _show_state(result["current"])
    allowed = _ALLOWED[result["current"]["status"]]
    if not allowed:
        return
    with st.form("review", border=False):
        decision = DECISIONS[st.radio("Decision", allowed, horizontal=True, key="decision")]
        left, right = st.columns(2)
        count = left.number_input(
            "Right count (to correct)",
            0,
            10_000_000,
            answer["count"],
            1,
            key=f"right_count {answer['id']}",
        )
        reviewer = right.text_input("Reviewer", max_chars=255, key="reviewer").strip()
        reason = st.text_area(
            "Reason (not needed to accept)", max_chars=4000, height=68, key="reason"
        ).strip()
        if not st.form_submit_button("File the review", type="primary", key="file_review"):
            return
    missing = _missing(decision, reviewer, reason)
    if missing:
        st.error(missing)
        return
    review: dict[str, Any] = {"decision": decision, "reviewer": reviewer}
    if reason:
        review["reason"] = reason
    if decision == "edit":
        review["count"] = int(count)
    try:
        choices.client.review(answer["id"], etag, review)
        st.session_state[seen_key] = choices.client.result(answer["id"])
    except ServiceError as error:
        show_error(error)
        if error.status == _STALE:
            st.button("Show how it stands now", on_click=lambda: st.session_state.pop(seen_key))
        return
    st.rerun()


def _missing(decision: str, reviewer: str, reason: str) -> str:
    if not reviewer:
        return "Say who reviews: fill in “Reviewer”."
    if decision != "accept" and not reason:
        return "Say why: fill in “Reason”."
    return ""


def _show_state(current: dict[str, Any]) -> None:
    state = f"Status: **{current['status']}**, {current['count']:,} nuclei"
    review = current["review"]
    if review is None:
        st.markdown(f"{state}, not reviewed yet.")
        return
    reason = f": {review['reason']}" if review["reason"] else ""
    st.markdown(f"{state}. {review['reviewer']} chose *{review['decision']}*{reason}")
