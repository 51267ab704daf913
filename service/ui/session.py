"""What the views share within one run of the script: the service, the asking, the errors."""

import json
from dataclasses import dataclass, field, replace
from typing import Any

import streamlit as st

from service.ui.client import (
    UNREACHABLE,
    KaryonClient,
    Parameters,
    ServiceError,
    service_url,
)
from service.ui.drawing import Answer, OutlineStyle
from service.ui.pictures import Picture, to_data_url

KEPT_ANSWERS = 64
LOOK_AGAIN_S = 3
KEPT_MODELS_S = 10.0
"""For so long a newly loaded model may stay unseen; each action would ask anew otherwise."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What the side bar says.

    Attributes:
        client: The service.
        models: Names with versions, the default one first.
        model: The chosen one.
        parameters: Query parameters for `POST /segment`, without the model.
        identity: Accession, specimen and order.
        style: Of the outlines.
        maps: Which maps the model has, `probability` and perhaps `distance`.
        map_kind: Which of them lies over the image; None for none.
    """

    client: KaryonClient
    models: list[str]
    model: str
    parameters: Parameters = field(default_factory=dict)
    identity: dict[str, str] = field(default_factory=dict)
    style: OutlineStyle = field(default_factory=OutlineStyle)
    maps: tuple[str, ...] = ("probability",)
    map_kind: str | None = None


@st.cache_data(ttl=KEPT_MODELS_S, show_spinner=False, scope="session")
def loaded_models(url: str, api_key: str) -> list[dict[str, Any]]:
    """Return the service's models with their contracts, the default one first.

    Raises:
        ServiceError: The service refuses or is away, as with every function here that asks it.
    """
    client = KaryonClient(url, api_key)
    listed = sorted(client.models()["models"], key=lambda item: (not item["default"], item["name"]))
    names = (f"{item['name']}:{item['version']}" for item in listed)
    return [{"name": name, "contract": client.model(name)["contract"]} for name in names]


@st.cache_data(max_entries=KEPT_ANSWERS, show_spinner="Segmenting ...", scope="session")
def _segmented(
    url: str,
    api_key: str,
    image: bytes,
    name: str,
    parameters: Parameters,
    identity: dict[str, str],
) -> bytes:
    """Ask once for each image and choice: every answer is a result of its own in the records."""
    return KaryonClient(url, api_key).segment(image, name, parameters, identity)


@st.cache_data(max_entries=8, show_spinner=False, scope="session")
def picture_url(content: bytes) -> str | None:
    """Return `to_data_url`, made once for each picture."""
    return to_data_url(content)


def segmented(choices: Choices, picture: Picture, *, model: str, **parameters: str) -> bytes:
    """Return the service's answer in bytes, from this session's earlier ones where it was asked.

    Raises:
        ServiceError: The service refuses or is away.
    """
    asked = {**choices.parameters, **parameters, "model": model}
    client = choices.client
    return _segmented(
        client.url, client.api_key, picture.content, picture.name, asked, choices.identity
    )


def answer_with_nuclei(choices: Choices, picture: Picture, *, model: str) -> tuple[Answer, bytes]:
    """Return the whole JSON answer, parsed and as it came (its signature is over those values)."""
    content = segmented(choices, picture, model=model, include="nuclei,mask", mask="labels")
    answer: Answer = json.loads(content)
    return answer, content


def map_over_image(choices: Choices, picture: Picture, *, model: str) -> bytes | None:
    """Return the map that was chosen as a PNG file; says so where the model has none.

    It is looked at, not filed under the case: the laboratory system has the result itself.
    """
    kind = choices.map_kind
    if kind is None:
        return None
    try:
        return segmented(
            replace(choices, identity={}), picture, model=model, format="png", mask=kind
        )
    except ServiceError as error:
        show_error(error)
        return None


def show_error(error: ServiceError, *, again: str | None = None) -> None:
    """Say what went wrong and what to do about it, and under which number the log has it.

    Args:
        error: What went wrong.
        again: Key of a button to try again; None where trying again is of no use here.
    """
    lines = [f"**{error.title}.** {error.detail}"]
    if error.remedy:
        lines.append(f"What to do: {error.remedy}")
    if error.request_id:
        lines.append(f"Request `{error.request_id}`, status {error.status}.")
    st.error("\n\n".join(lines))
    if again is not None:
        st.button("Try again", key=again)
        if error.problem == UNREACHABLE:
            _watch()


@st.fragment(run_every=LOOK_AGAIN_S)
def _watch() -> None:
    """Go on once there is a service: it may only be starting."""
    st.caption(f"The app looks every {LOOK_AGAIN_S} seconds, and goes on when it is there.")
    try:
        KaryonClient(service_url()).models()
    except ServiceError as error:
        if error.problem == UNREACHABLE:
            return
    st.rerun()
