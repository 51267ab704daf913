"""What may be asked of a segmentation, and what comes of it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.inference.session import ModelSession
from service.segmentation.augmentation import TestTimeAugmentation
from service.segmentation.intervals import CountInterval
from service.segmentation.measurements import Nucleus
from service.segmentation.quality import QualityFlag

MppSource = Literal["parameter", "image", "assumed_native"]


@dataclass(frozen=True, slots=True)
class SegmentOptions:
    """What a caller may choose; None takes the model's calibrated value.

    Attributes:
        probability_threshold: Least nucleus probability of a foreground pixel, between 0 and 1.
        min_area_px: Least area of a nucleus in pixels of the caller's image.
        min_area_um2: The same in square micrometres; not both.
        mpp: Resolution of the image in micrometres per pixel, 0.05 to 5; overrules the image's own.
        seed_threshold: Least value of the distance map in a seed, between 0 and 1.
        min_mean_probability: Least mean probability of a nucleus, 0 to below 1.
        keep_distance: Whether the distance map is handed out too.
    """

    probability_threshold: float | None = None
    min_area_px: float | None = None
    min_area_um2: float | None = None
    mpp: float | None = None
    seed_threshold: float | None = None
    min_mean_probability: float | None = None
    keep_distance: bool = False


@dataclass(frozen=True, slots=True)
class ResolvedOptions:
    """The values that were used.

    Attributes:
        probability_threshold: Least nucleus probability of a foreground pixel.
        seed_threshold: Least value of the distance map in a seed.
        min_area_px: Least area of a nucleus in pixels of the caller's image.
        min_mean_probability: Least mean probability of a nucleus.
        test_time_augmentation: Turned and mirrored copies whose maps were averaged.
    """

    probability_threshold: float
    seed_threshold: float
    min_area_px: float
    min_mean_probability: float = 0.0
    test_time_augmentation: TestTimeAugmentation = "none"


@dataclass(frozen=True)
class Segmentation:
    """What was found in an image; everything in pixels of the caller's image.

    Attributes:
        labels: Shape (H, W), int32, 0 background, 1..count nuclei.
        probability: Nucleus probability, shape (H, W), uint8, 0..255 for 0..1.
        nuclei: One entry a nucleus, in the order of the labels.
        count: Number of nuclei.
        foreground_fraction: Share of the pixels that belong to a nucleus, 0..1.
        mpp: Micrometres per pixel that were assumed.
        mpp_source: Where that came from.
        density_per_mm2: Nuclei per square millimetre; None when mpp is only assumed.
        mean_area_px: Mean area; None without nuclei.
        median_area_px: Median area; None without nuclei.
        mean_area_um2: Mean area; None without nuclei, or when mpp is only assumed.
        median_area_um2: Median area; None without nuclei, or when mpp is only assumed.
        options: The thresholds that were used.
        model: The model that was used.
        tiles: Tiles that the model ran on.
        timings_ms: Milliseconds spent in `tiling`, `inference`, `separation`, `measurement`,
            `quality`.
        quality: What was checked to tell whether the result can be trusted; every flag, fired or
            not.
        count_interval: Where an annotator's count is expected; None where the model states none, or
            none that holds under these options.
        distance: Distance to the nucleus's own edge, shape (H, W), uint8, 0..255 for 0..1; None
            unless it was asked for.
    """

    labels: NDArray[np.int32]
    probability: NDArray[np.uint8]
    nuclei: list[Nucleus]
    count: int
    foreground_fraction: float
    mpp: float
    mpp_source: MppSource
    density_per_mm2: float | None
    mean_area_px: float | None
    median_area_px: float | None
    mean_area_um2: float | None
    median_area_um2: float | None
    options: ResolvedOptions
    model: ModelSession
    tiles: int
    timings_ms: dict[str, float]
    quality: tuple[QualityFlag, ...] = ()
    count_interval: CountInterval | None = None
    distance: NDArray[np.uint8] | None = None

    @property
    def review_recommended(self) -> bool:
        """Whether any quality flag fired."""
        return any(flag.fired for flag in self.quality)
