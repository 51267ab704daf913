"""The shape of the quality flags within the JSON answer; see `service.segmentation.quality`."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

_CLOSED = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class QualityFlagAnswer(BaseModel):
    """One check of the image."""

    model_config = _CLOSED

    name: Literal[
        "blur", "too_little_tissue", "stain_shift", "magnification_mismatch", "merged_nuclei"
    ]
    """What was checked."""
    value: float | None = Field(examples=[-1.2])
    """What was measured; null where the image does not allow it."""
    threshold: float | None = Field(examples=[-3.0])
    """The flag fires beyond it; null where the model states none."""
    unit: str = Field(examples=["share of the image"])
    """Unit of value and threshold."""
    direction: Literal["below", "above"]
    """On which side of the threshold the flag fires."""
    assessed: bool
    """Whether there were a value and a threshold to compare."""
    fired: bool
    """Whether a person should look."""
    message: str = Field(examples=["The image is sharp enough."])
    """What it means and what to do."""


class QualityAnswer(BaseModel):
    """Whether the image is one that the model can be trusted on."""

    model_config = _CLOSED

    flags: list[QualityFlagAnswer]
    """Every check, fired or not."""
    review_recommended: bool
    """Whether any flag fired."""
    reasons: list[str] = Field(examples=[["The image is out of focus or lacks fine detail."]])
    """The messages of the flags that fired."""
