"""What the views share within one run of the script: the service, the asking, the errors."""

import json
from dataclasses import dataclass, field

import streamlit as st

from service.ui.client import KaryonClient, Parameters, ServiceError
from service.ui.drawing import Answer, OutlineStyle
from service.ui.pictures import Picture, to_data_url

KEPT_ANSWERS = 64


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
        show_probability: Whether the probability map lies over the image.
    """

    client: KaryonClient
    models: list[str]
    model: str
    parameters: Parameters = field(default_factory=dict)
    identity: dict[str, str] = field(default_factory=dict)
    style: OutlineStyle = field(default_factory=OutlineStyle)
    show_probability: bool = False


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
    content = segmented(choices, picture, model=model, include="nuclei,mask", mask="probability")
    answer: Answer = json.loads(content)
    return answer, content


def show_error(error: ServiceError) -> None:
    """Say what went wrong and what to do about it, and under which number the log has it."""
    lines = [f"**{error.title}.** {error.detail}"]
    if error.remedy:
        lines.append(f"What to do: {error.remedy}")
    if error.request_id:
        lines.append(f"Request `{error.request_id}`, status {error.status}.")
    st.error("\n\n".join(lines))
