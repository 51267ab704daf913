"""A person's word on the result that is shown: accept it, correct it, or reject it."""

import base64
import threading
from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from service.ui.client import KaryonClient, ServiceError
from service.ui.drawing import Answer, labels_png
from service.ui.edit_view import edited_count, edits_of, keep_as_filed
from service.ui.editing import Edits, edited_labels
from service.ui.session import Choices, show_error

DECISIONS = {"Accept": "accept", "Correct": "edit", "Reject": "reject"}
_ALLOWED = {
    "preliminary": list(DECISIONS),
    "final": ["Correct", "Reject"],
    "corrected": ["Correct", "Reject"],
    "cancelled": [],
}
_STALE = 412


@dataclass(slots=True)
class _Filing:
    """The one review of a state.

    A second click begins a run while that of the first one is at the service, which Streamlit then
    ends: the second waits for the answer to the first, which is its own.
    """

    is_done: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def file(self, client: KaryonClient, result_id: str, etag: str, review: dict[str, Any]) -> None:
        """File it, unless it is on file.

        Raises:
            ServiceError: The service refuses or is away.
        """
        with self._lock:
            if not self.is_done:
                client.review(result_id, etag, review)
                self.is_done = True


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
            show_error(error, again="try review again")
            return
    result, etag = st.session_state[seen_key]
    _show_state(result["current"])
    status = result["current"]["status"]
    if not _ALLOWED[status]:
        return
    review = _ask(answer, edits_of(answer), status)
    if review is None:
        return
    filing: _Filing = st.session_state.setdefault(f"filing {answer['id']} {etag}", _Filing())
    try:
        filing.file(choices.client, answer["id"], etag, review)
    except ServiceError as error:
        show_error(error)
        if error.status == _STALE:
            st.button("Show how it stands now", on_click=lambda: st.session_state.pop(seen_key))
        return
    # On file from here on, whatever becomes of reading it back: that is the next run's.
    if review["decision"] == "edit":
        keep_as_filed(answer)
    st.session_state.pop(seen_key, None)
    st.rerun()


def _ask(answer: Answer, edits: Edits, status: str) -> dict[str, Any] | None:
    """Return the review that was just filled in; None where there is none, or something lacks."""
    of_state = f"{answer['id']} {status}"
    with st.form(f"review {of_state}", border=False):
        # Were these the same widgets after the first review, a late click in the page before would
        # be a choice in the shorter list of the next, or a second review, and the reason for one
        # result would be filed with another. And nothing is chosen for anybody.
        title = st.radio(
            "Decision",
            _ALLOWED[status],
            index=None,
            horizontal=True,
            key=f"decision {of_state}",
        )
        left, right = st.columns(2)
        count = None
        if edits:
            left.metric("Right count, by your changes", f"{edited_count(answer, edits):,}")
        else:
            count = left.number_input(
                "Right count (to correct)",
                0,
                10_000_000,
                answer["count"],
                1,
                key=f"right_count {answer['id']}",
                help="Or delete and draw nuclei in the picture.",
            )
        reviewer = right.text_input("Reviewer", max_chars=255, key="reviewer").strip()
        reason = st.text_area(
            "Reason (not needed to accept)", max_chars=4000, height=68, key=f"reason {of_state}"
        ).strip()
        if not st.form_submit_button("File the review", type="primary", key=f"file {of_state}"):
            return None
    decision = None if title is None else DECISIONS[title]
    missing = _missing(decision, reviewer, reason, edits)
    if missing or decision is None:
        st.error(missing)
        return None
    review: dict[str, Any] = {"decision": decision, "reviewer": reviewer}
    if reason:
        review["reason"] = reason
    if decision == "edit":
        review |= _correction(answer, edits, count)
    return review


def _correction(answer: Answer, edits: Edits, count: int | None) -> dict[str, Any]:
    """Return the right nuclei where they were drawn, else the right count."""
    if not edits:
        return {"count": count}
    labels, _ = edited_labels(labels_png(answer), edits)
    return {"labels": {"encoding": "png", "data": base64.b64encode(labels).decode("ascii")}}


def _missing(decision: str | None, reviewer: str, reason: str, edits: Edits) -> str:
    if decision is None:
        return "Say what you decide: nothing is chosen under “Decision”."
    if not reviewer:
        return "Say who reviews: fill in “Reviewer”."
    if decision != "accept" and not reason:
        return "Say why: fill in “Reason”."
    if decision == "accept" and edits:
        return "You changed nuclei: choose “Correct”, or discard the changes below the picture."
    return ""


def _show_state(current: dict[str, Any]) -> None:
    state = f"Status: **{current['status']}**, {current['count']:,} nuclei"
    review = current["review"]
    if review is None:
        st.markdown(f"{state}, not reviewed yet.")
        return
    reason = f": {review['reason']}" if review["reason"] else ""
    st.markdown(f"{state}. {review['reviewer']} chose *{review['decision']}*{reason}")
