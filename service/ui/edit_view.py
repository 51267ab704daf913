"""Nuclei deleted and drawn in the picture: taken from the viewer, shown, undone."""

import hashlib
import threading
from typing import Any

import streamlit as st

from service.ui.drawing import NO_EDITS, Answer, labels_png
from service.ui.editing import EditError, Edits, edited_labels, read_outline

KEPT_RECEIPTS = 200
"""So many of its last reports the viewer is told of; far more than can be on the way."""


def edits_of(answer: Answer) -> Edits:
    """Return what was changed in a result so far."""
    return _history(answer)[-1]


def take_edit(answer: Answer, viewer_key: str) -> None:
    """Make the changes that the viewer reports, or keep the reason why one cannot be made.

    It reports each change until it is told that the change was taken: of two reports that come
    while the app is at work, Streamlit hands on the later alone.
    """
    event: dict[str, Any] | None = st.session_state[viewer_key].get("edit")
    taken, history = taken_edits(), _history(answer)
    lock: threading.Lock = st.session_state.setdefault("edits lock", threading.Lock())
    trouble = ""
    # The run of the next click begins in a second thread before this one has ended, and this one
    # ends where it touches the session: until all is made and taken, it does not.
    with lock:
        for change in () if event is None else event["edits"]:
            if change["id"] not in taken:
                trouble = _make(answer, history, change) or trouble
                taken.append(change["id"])
    if trouble:
        st.session_state["edit error"] = trouble


def taken_edits() -> list[str]:
    """Return which of the viewer's reports need not come again, the latest last."""
    taken: list[str] = st.session_state.setdefault("edits taken", [])
    return taken


def _make(answer: Answer, history: list[Edits], change: dict[str, Any]) -> str:
    """Make one change; return why it cannot be made, or nothing."""
    if change["result"] != answer["id"]:
        # Its numbers mean other nuclei now.
        return (
            "The outlines had just changed when your click arrived. Look at them, and do it again."
        )
    image, edits = answer["image"], history[-1]
    try:
        if "outline" in change:
            outline = read_outline(change["outline"], image["width"], image["height"])
            made = edits.draw(outline)
        elif "erase" in change:
            made = edits.erase(change["erase"])
        else:
            made = edits.toggle(int(change["toggle"]))
        edited_labels(labels_png(answer), made)
    except EditError as error:
        return str(error)
    if made != edits:
        history.append(made)
    return ""


def show_edits(answer: Answer) -> None:
    """Say what was changed, with the ways back; nothing where nothing was."""
    if "edit error" in st.session_state:
        st.warning(st.session_state.pop("edit error"), icon=":material/warning:")
    edits = edits_of(answer)
    if not edits:
        return
    count = edited_count(answer, edits)
    where = (
        "They are yours alone until you file them under “Review”."
        if are_unfiled(answer)
        else "They are filed."
    )
    st.markdown(
        f"Your changes: **{len(edits.deleted)} deleted, {len(edits.drawn)} drawn**, which leaves"
        f" **{count:,}** nuclei. {where}"
    )
    left, right, _ = st.columns([1, 1, 2])
    left.button("Undo", key="undo", on_click=undo, args=(answer,), width="stretch")
    right.button("Discard all", key="discard", on_click=_discard, args=(answer,), width="stretch")


def edited_count(answer: Answer, edits: Edits) -> int:
    """Return how many nuclei a result has with the changes."""
    known = {item["id"] for item in answer["nuclei"]}
    return len(known - edits.deleted) + len(edits.drawn)


def keep_as_filed(answer: Answer) -> None:
    """Remember that the changes as they are now are on file."""
    st.session_state[f"filed {answer['id']}"] = edits_of(answer)


def are_unfiled(answer: Answer) -> bool:
    """Return whether there are changes that are nowhere but in this tab."""
    edits = edits_of(answer)
    return bool(edits) and st.session_state.get(f"filed {answer['id']}") != edits


def _history(answer: Answer) -> list[Edits]:
    history: list[Edits] = st.session_state.setdefault(_history_key(answer), [NO_EDITS])
    return history


def _history_key(answer: Answer) -> str:
    """Return where the changes are kept: by the nuclei that they are of, not by the result.

    The same nuclei are filed anew where a case is given after the changes were made.
    """
    nuclei = f"{answer['image']['sha256']} {answer['mask']['data']}"
    return f"edits {hashlib.sha256(nuclei.encode()).hexdigest()}"


def undo(answer: Answer) -> None:
    """Take the last change back; nothing where a first click has taken back the only one."""
    history = _history(answer)
    if len(history) > 1:
        history.pop()


def _discard(answer: Answer) -> None:
    st.session_state[_history_key(answer)] = [NO_EDITS]
