"""Nuclei deleted and drawn in the picture: taken from the viewer, shown, undone."""

from typing import Any

import streamlit as st

from service.ui.drawing import NO_EDITS, Answer, labels_png
from service.ui.editing import EditError, Edits, edited_labels, read_outline


def edits_of(answer: Answer) -> Edits:
    """Return what was changed in a result so far."""
    return _history(answer)[-1]


def take_edit(answer: Answer, viewer_key: str) -> None:
    """Make the change that the viewer reports, or keep the reason why it cannot be made."""
    event: dict[str, Any] | None = st.session_state[viewer_key].get("edit")
    if event is None:
        return
    image, edits = answer["image"], edits_of(answer)
    try:
        if "outline" in event:
            outline = read_outline(event["outline"], image["width"], image["height"])
            edits = edits.draw(outline)
        else:
            edits = edits.toggle(int(event["toggle"]))
        edited_labels(labels_png(answer), edits)
    except EditError as error:
        st.session_state["edit error"] = str(error)
        return
    _history(answer).append(edits)
    st.session_state[f"decision {answer['id']}"] = "Correct"


def show_edits(answer: Answer) -> None:
    """Say what was changed, with the ways back; nothing where nothing was."""
    if "edit error" in st.session_state:
        st.warning(st.session_state.pop("edit error"), icon=":material/warning:")
    edits = edits_of(answer)
    if not edits:
        return
    count = edited_count(answer, edits)
    st.markdown(
        f"Your changes: **{len(edits.deleted)} deleted, {len(edits.drawn)} drawn**, which leaves"
        f" **{count:,}** nuclei. {_where(answer, edits)}"
    )
    undo, discard, _ = st.columns([1, 1, 2])
    undo.button("Undo", key="undo", on_click=_undo, args=(answer,), width="stretch")
    discard.button("Discard all", key="discard", on_click=_discard, args=(answer,), width="stretch")


def edited_count(answer: Answer, edits: Edits) -> int:
    """Return how many nuclei a result has with the changes."""
    known = {item["id"] for item in answer["nuclei"]}
    return len(known - edits.deleted) + len(edits.drawn)


def keep_as_filed(answer: Answer) -> None:
    """Remember that the changes as they are now are on file."""
    st.session_state[f"filed {answer['id']}"] = edits_of(answer)


def _where(answer: Answer, edits: Edits) -> str:
    if st.session_state.get(f"filed {answer['id']}") == edits:
        return "They are filed."
    return "They are yours alone until you file them under “Review”."


def _history(answer: Answer) -> list[Edits]:
    history: list[Edits] = st.session_state.setdefault(f"edits {answer['id']}", [NO_EDITS])
    return history


def _undo(answer: Answer) -> None:
    _history(answer).pop()


def _discard(answer: Answer) -> None:
    st.session_state[f"edits {answer['id']}"] = [NO_EDITS]
