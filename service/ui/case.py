"""The case that an image is filed under: typed for one image, never taken over by the next unseen.

A result is bound to its order by the accession number and goes to the laboratory system at once, so
the case of the image before must not be filed with this one because it still stood in the side bar.
"""

import hashlib
from collections.abc import Mapping
from typing import Final

import streamlit as st

from service.ui.pictures import Picture

Case = dict[str, str]
"""Form field of `POST /segment` to what was typed."""

BATCH: Final = "batch"
NO_IMAGE: Final = "no image"
_FIELDS: Final = {"accession": "Accession", "specimen_id": "Specimen", "order_id": "Order"}


def subject_of(picture: Picture | None) -> str:
    """Return what a case is typed for: this very image, or the one that comes next."""
    return NO_IMAGE if picture is None else hashlib.sha256(picture.content).hexdigest()


def ask_case(subject: str) -> Case:
    """Return the case of the image, as the side bar says.

    Each image has fields of its own, under its own keys: what a browser still sends of the image
    before is none of this one's.

    Args:
        subject: Of `subject_of`, or `BATCH`.
    """
    case = _remembered(subject)
    with (
        st.sidebar.expander("Case"),
        # One press for all three: each answer is a record, and may go to the laboratory system.
        st.form(f"case {subject}", border=False),
    ):
        whom = "every file of the batch" if subject == BATCH else "this image alone"
        st.caption(f"Identifiers of the laboratory, never of a patient; for {whom}.")
        for name, label in _FIELDS.items():
            key = f"{name} {subject}"
            if key not in st.session_state:
                st.session_state[key] = case.get(name, "")
            case[name] = st.text_input(label, key=key).strip()
        st.form_submit_button("Use this case")
    st.session_state["cases"][subject] = case
    last = st.session_state.get("last case", {})
    if any(case.values()):
        st.session_state["last case"] = dict(case)
    elif any(last.values()):
        st.sidebar.button(
            f"Same case as before: {case_text(last)}",
            key=f"same case {subject}",
            on_click=_take_over,
            args=(subject, last),
        )
    return dict(case)


def case_text(identity: Mapping[str, str | None]) -> str:
    """Return the identifiers that are given, in words; empty where there is none."""
    given = ((label.lower(), identity.get(name)) for name, label in _FIELDS.items())
    return ", ".join(f"{label} {value}" for label, value in given if value)


def _remembered(subject: str) -> Case:
    """Return what was typed for this image earlier, or before there was one."""
    cases: dict[str, Case] = st.session_state.setdefault("cases", {})
    if subject not in cases and st.session_state.get("case subject") == NO_IMAGE:
        cases[subject] = cases.pop(NO_IMAGE, {})
    st.session_state["case subject"] = subject
    return dict(cases.get(subject, {}))


def _take_over(subject: str, case: Case) -> None:
    for name in _FIELDS:
        st.session_state[f"{name} {subject}"] = case.get(name, "")
