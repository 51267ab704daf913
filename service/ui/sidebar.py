"""The side bar: which image, which model, which thresholds, how it looks, which case."""

from typing import Any

import streamlit as st

from service.ui.case import NO_IMAGE, ask_case
from service.ui.client import KaryonClient, Parameters, ServiceError, service_url
from service.ui.drawing import COLOURS, OutlineStyle
from service.ui.pictures import SAMPLES, Picture, sample
from service.ui.session import Choices, loaded_models, show_error

IMAGE_TYPES = ["png", "jpg", "jpeg", "tif", "tiff", "webp", "bmp"]
_GREATEST_AREA_UM2 = 100.0
Models = dict[str, dict[str, Any]]
"""Name with version to contract, the default one first."""

_MAP_OF = {"nucleus": "probability", "distance": "distance"}
_NO_MAP = "None"
_UNAUTHORISED = 401
_FORBIDDEN = 403


def choose_service(subject: str) -> Choices | None:
    """Return what the side bar says, or None where the service tells no models.

    Args:
        subject: What the case is typed for, as `service.ui.case` names it.
    """
    url, key = service_url(), str(st.session_state.get("api_key", "")).strip()
    known: Models = st.session_state.get("models", {})
    failure: ServiceError | None = None
    try:
        models = {item["name"]: item["contract"] for item in loaded_models(url, key)}
    except ServiceError as error:
        # Without its widgets the side bar would forget where they stood, and the next image would
        # be filed with other thresholds than those that were set.
        failure, models = error, known
    refused = failure is not None and failure.status in (_UNAUTHORISED, _FORBIDDEN)
    if key or refused:
        _ask_for_key()
    if failure is not None and not known:
        show_error(failure, again="try again")
        return None
    models = st.session_state["models"] = _with_chosen(models, known)
    names = list(models)
    model = st.sidebar.selectbox("Model", names, key="model")
    parameters = _thresholds(model, models[model]["separation"], subject)
    maps = tuple(_MAP_OF[channel] for channel in models[model]["output"]["channels"])
    style, map_kind = _look(maps)
    case = ask_case(subject)
    if failure is not None and refused:
        show_error(failure, again="try again")
        return None
    return Choices(KaryonClient(url, key), names, model, parameters, case, style, maps, map_kind)


def _with_chosen(models: Models, known: Models) -> Models:
    """Return the models, with the chosen one where it was unloaded: what it made is still shown.

    Streamlit would choose the first of the others, unseen, and what was changed in the result that
    is shown would be out of reach.
    """
    chosen = st.session_state.get("model")
    if chosen is None or chosen in models or chosen not in known:
        return models
    st.sidebar.warning(f"{chosen} is no longer loaded. Choose another model for new images.")
    return {**models, chosen: known[chosen]}


def choose_picture() -> Picture | None:
    """Return the image that was dropped, else the sample that was chosen."""
    dropped = st.sidebar.file_uploader("Image (H&E)", IMAGE_TYPES, key="upload")
    if dropped is not None:
        return Picture(dropped.name, dropped.getvalue())
    title = st.sidebar.selectbox(
        "or a sample", list(SAMPLES), index=None, placeholder="Choose a sample", key="sample"
    )
    return None if title is None else sample(title)


def _ask_for_key() -> None:
    st.sidebar.text_input(
        "API key",
        type="password",
        key="api_key",
        help="The service asks for one. It stays in this browser tab's session only.",
    )


def _thresholds(model: str, separation: dict[str, Any], subject: str) -> Parameters:
    """Return what differs from the model's own values: those alone carry its interval."""
    own_threshold = float(separation["probability_threshold"])
    own_area = float(separation["min_area_um2"])
    threshold = st.sidebar.slider(
        "Threshold",
        0.05,
        0.95,
        own_threshold,
        0.01,
        key=f"threshold {model}",
        help="Probability from which a pixel counts as nucleus."
        f" The model's own, calibrated value is {own_threshold:g}.",
    )
    area = st.sidebar.slider(
        "Least area (µm²)",
        0.0,
        max(_GREATEST_AREA_UM2, own_area),
        own_area,
        0.5,
        key=f"area {model}",
        help=f"Smaller nuclei are dropped. The model's own value is {own_area:g}.",
    )
    mpp = st.sidebar.number_input(
        "Resolution (µm per pixel)",
        0.05,
        5.0,
        None,
        0.01,
        placeholder="from the file",
        key="mpp",
        on_change=lambda: st.session_state.update({"mpp given for": subject}),
        help="0.25 is 40x, 0.5 is 20x. Without it: the file's tags, else the model's own.",
    )
    if mpp is not None and st.session_state.get("mpp given for") not in (subject, NO_IMAGE):
        st.sidebar.caption(
            f"{mpp:g} was given for another image, and counts before what this file says of itself."
        )
    parameters = {}
    if _differs(threshold, own_threshold):
        parameters["threshold"] = f"{threshold:g}"
    if _differs(area, own_area):
        parameters["min_area_um2"] = f"{area:g}"
    if mpp is not None:
        parameters["mpp"] = f"{mpp:g}"
    return parameters


def _differs(chosen: float, own: float) -> bool:
    """Return whether a slider stands elsewhere than at the model's own value, by what it shows.

    A calibrated value between two of the slider's steps could otherwise never be returned to, and
    the interval of the count would stay away.
    """
    return f"{chosen:.2f}" != f"{own:.2f}"


def _look(maps: tuple[str, ...]) -> tuple[OutlineStyle, str | None]:
    with st.sidebar.expander("Outlines"):
        colour = st.selectbox("Colour", list(COLOURS), key="colour")
        thickness_px = st.slider("Thickness (px)", 0.5, 6.0, 2.0, 0.5, key="thickness")
        opacity = st.slider("Opacity", 0.0, 1.0, 1.0, 0.05, key="opacity")
        fill = st.slider("Fill", 0.0, 1.0, 0.0, 0.05, key="fill")
        map_opacity = st.slider("Opacity of the map", 0.0, 1.0, 0.8, 0.05, key="map opacity")
    titles = [_NO_MAP, *(kind.capitalize() for kind in maps)]
    title = st.sidebar.radio("Map over the image", titles, horizontal=True, key="map")
    style = OutlineStyle(COLOURS[colour], thickness_px, opacity, fill, map_opacity)
    return style, None if title == _NO_MAP else title.lower()
