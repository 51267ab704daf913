"""Figures and flags in the words of the people who use them."""

from typing import Any, Final

RESEARCH_USE_ONLY: Final = (
    "Research use only. Not for use in diagnostic procedures. Every result is preliminary until"
    " a qualified person has reviewed it."
)

FLAG_TITLES: Final = {
    "blur": "Sharpness",
    "too_little_tissue": "Amount of tissue",
    "stain_shift": "Stain colours",
    "magnification_mismatch": "Magnification",
    "merged_nuclei": "Merged nuclei",
}
FLAG_REMEDIES: Final = {
    "blur": "Refocus and scan the field again; do not use this count.",
    "too_little_tissue": "Choose another field with more tissue.",
    "stain_shift": "Compare the outlines with the image before you use the count. If all of your"
    " slides do this, the model needs images of your laboratory.",
    "magnification_mismatch": "Give the scanner's resolution under “Resolution”: 0.25 is 40x,"
    " 0.5 is 20x.",
    "merged_nuclei": "Zoom in where nuclei crowd: two or three may be outlined as one, and the"
    " count too low.",
}

MAP_LEGENDS: Final = {
    "probability": "Probability of nucleus: black is 0, white is 1.",
    "distance": "Distance to the nucleus's own edge: black is the edge and all outside, white the"
    " middle.",
}


def interval_text(answer: dict[str, Any]) -> str:
    """Return the interval of the count, or why there is none."""
    interval = answer["count_interval"]
    if interval is None:
        return (
            "none stated. The model has none, or a threshold was changed from the one that it was"
            " calibrated with."
        )
    return (
        f"{interval['lower']} to {interval['upper']} in {interval['level']:.0%} of images like"
        f" those calibrated on ({interval['method']})."
    )


def density_text(answer: dict[str, Any]) -> str:
    """Return the density, or that it is unknown."""
    density = answer["density_per_mm2"]
    return "unknown" if density is None else f"{density:,.0f} /mm²"


def area_text(answer: dict[str, Any]) -> str:
    """Return the median area of the nuclei with its unit."""
    if answer["median_area_um2"] is not None:
        return f"{answer['median_area_um2']:.1f} µm²"
    if answer["median_area_px"] is not None:
        return f"{answer['median_area_px']:.0f} px²"
    return "none"


def resolution_text(answer: dict[str, Any]) -> str:
    """Return which resolution was worked with, and who said so."""
    image = answer["image"]
    mpp = f"{image['mpp']:g} µm per pixel"
    match image["mpp_source"]:
        case "parameter":
            return f"{mpp}, as you gave it"
        case "image":
            return f"{mpp}, from the file's tag {image['mpp_tag']}"
    return f"{mpp} is only assumed: give the resolution for densities and areas in µm²"


def origin_text(answer: dict[str, Any]) -> str:
    """Return which model made the answer, in what precision and time."""
    model = answer["model"]
    duration = f"{answer['timings_ms']['total']:.0f} ms"
    return f"Model {model['name']} {model['version']}, {answer['precision']}, {duration}."


def flag_lines(quality: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return (`fired`, `fine` or `unknown`; title with message; what to do) of each flag."""
    lines = []
    for flag in sorted(quality["flags"], key=lambda item: (not item["fired"], item["assessed"])):
        name = flag["name"]
        title = FLAG_TITLES.get(name, name.replace("_", " "))
        if flag["fired"]:
            lines.append(("fired", f"{title}: {flag['message']}", FLAG_REMEDIES.get(name, "")))
        else:
            state = "fine" if flag["assessed"] else "unknown"
            lines.append((state, f"{title}: {flag['message']}", ""))
    return lines
