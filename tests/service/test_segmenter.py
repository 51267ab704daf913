"""The segmenter, from pixels to figures, with a real tiny model and real H&E."""

import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from service.errands import Errands, Helpers
from service.errors import ImageTooLargeError, InvalidParameterError
from service.inference.session import ModelSession
from service.segmentation.augmentation import TestTimeAugmentation
from service.segmentation.intervals import CountInterval
from service.segmentation.rescaling import resize_pixels
from service.segmentation_result import SegmentOptions
from service.segmenter import Segmenter

Pixels = NDArray[np.uint8]

PURPLE = (80, 60, 140)
PINK = (235, 200, 220)


def draw(discs: list[tuple[int, int, int]], height: int, width: int) -> NDArray[np.uint8]:
    """Purple discs (x, y, radius) on pink."""
    image = np.full((height, width, 3), PINK, dtype=np.uint8)
    for x, y, radius in discs:
        cv2.circle(image, (x, y), radius, PURPLE, -1)
    return image


GRID = [(x, y, 10) for x in range(30, 400, 45) for y in range(30, 300, 45)]


@pytest.fixture(scope="module")
def session(tiny_model_path: Path) -> ModelSession:
    return ModelSession.load(tiny_model_path, provider="cpu", threads=1)


@pytest.fixture(scope="module")
def one_channel(tiny_one_channel_path: Path) -> ModelSession:
    return ModelSession.load(tiny_one_channel_path, provider="cpu", threads=1)


@pytest.fixture(scope="module")
def segmenter(session: ModelSession) -> Segmenter:
    return Segmenter(session)


def test_drawn_nuclei_are_counted_and_placed(segmenter: Segmenter) -> None:
    found = segmenter.segment(draw(GRID, 320, 420))
    assert found.count == len(GRID) == len(found.nuclei) == found.labels.max()
    assert found.labels.shape == found.probability.shape == (320, 420)
    assert found.labels.dtype == np.int32
    centres = sorted(nucleus.centroid_px for nucleus in found.nuclei)
    assert np.allclose(centres, sorted((x, y) for x, y, _ in GRID), atol=0.3)
    assert found.median_area_px == pytest.approx(math.pi * 100, rel=0.1)
    assert found.foreground_fraction == pytest.approx(np.mean(found.labels > 0))


def test_blank_image_has_no_nuclei(segmenter: Segmenter) -> None:
    found = segmenter.segment(np.full((100, 100, 3), 255, dtype=np.uint8), image_mpp=0.25)
    assert (found.count, found.foreground_fraction, found.density_per_mm2) == (0, 0.0, 0.0)
    assert found.mean_area_px is found.median_area_px is found.mean_area_um2 is None


@pytest.mark.parametrize("which", ["session", "one_channel"])
def test_real_tissue_gives_a_plausible_count(
    which: str,
    he_pixels: Pixels,
    he_labels: NDArray[np.int32],
    request: pytest.FixtureRequest,
) -> None:
    found = Segmenter(request.getfixturevalue(which)).segment(he_pixels)
    assert 0.7 < found.count / he_labels.max() < 1.3


def test_every_tile_counts_and_every_stage_is_timed(
    segmenter: Segmenter, he_pixels: Pixels
) -> None:
    found = segmenter.segment(he_pixels)
    assert found.tiles == 9
    assert set(found.timings_ms) == {
        "tiling",
        "inference",
        "separation",
        "measurement",
        "quality",
    }
    assert all(value > 0 for value in found.timings_ms.values())


@pytest.mark.parametrize("which", ["session", "one_channel"])
def test_batch_size_changes_nothing(
    which: str, he_pixels: Pixels, request: pytest.FixtureRequest
) -> None:
    session = request.getfixturevalue(which)
    one = Segmenter(session, max_batch_tiles=1).segment(he_pixels)
    eight = Segmenter(session, max_batch_tiles=8).segment(he_pixels)
    assert np.array_equal(one.labels, eight.labels)
    assert np.array_equal(one.probability, eight.probability)


def test_tiled_equals_untiled(
    session: ModelSession,
    he_pixels: Pixels,
    tiny_model_factory: Callable[..., Path],
    contract_document: Callable[..., dict[str, dict[str, object]]],
    tmp_path: Path,
) -> None:
    """The tiny model's receptive field lies within its halo, so there is no tolerance."""
    spec = {**contract_document()["input"], "tile_px": 1024}
    path = tiny_model_factory(tmp_path / "model.onnx", input=spec)
    whole = Segmenter(ModelSession.load(path, provider="cpu", threads=1)).segment(he_pixels)
    tiled = Segmenter(session).segment(he_pixels)
    assert (whole.tiles, tiled.tiles) == (1, 9)
    assert np.array_equal(whole.labels, tiled.labels)
    assert np.array_equal(whole.probability, tiled.probability)


@pytest.mark.parametrize("size", [(16, 16), (501, 413), (33, 700), (1, 512), (257, 256)])
def test_any_size_is_taken(segmenter: Segmenter, size: tuple[int, int]) -> None:
    found = segmenter.segment(np.full((*size, 3), 240, dtype=np.uint8))
    assert found.labels.shape == size


def test_resolution_by_parameter_image_or_assumption(segmenter: Segmenter) -> None:
    pixels = draw(GRID[:6], 320, 420)
    assumed = segmenter.segment(pixels)
    assert (assumed.mpp, assumed.mpp_source) == (0.25, "assumed_native")
    assert assumed.density_per_mm2 is assumed.mean_area_um2 is assumed.median_area_um2 is None
    stated = segmenter.segment(pixels, image_mpp=0.25)
    assert (stated.mpp, stated.mpp_source) == (0.25, "image")
    assert stated.density_per_mm2 == pytest.approx(6 / (320 * 420 * 0.25**2 / 1e6))
    assert stated.mean_area_px is not None
    assert stated.mean_area_um2 == pytest.approx(stated.mean_area_px / 16)
    chosen = segmenter.segment(pixels, image_mpp=0.5, options=SegmentOptions(mpp=0.251))
    assert (chosen.mpp, chosen.mpp_source) == (0.251, "parameter")
    absurd = segmenter.segment(pixels, image_mpp=352.8)
    assert absurd.mpp_source == "assumed_native"


@pytest.mark.parametrize(("mpp", "factor"), [(0.5, 0.5), (0.125, 2.0), (0.3, 0.25 / 0.3)])
def test_other_resolutions_find_the_same_nuclei(
    segmenter: Segmenter, mpp: float, factor: float
) -> None:
    """The same field of view, sampled more coarsely or finely, in the caller's own pixels."""
    native = draw(GRID, 320, 420)
    size = round(420 * factor), round(320 * factor)
    pixels = cv2.resize(native, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    found = segmenter.segment(pixels, options=SegmentOptions(mpp=mpp))
    assert found.labels.shape == pixels.shape[:2]
    assert found.count == found.labels.max() == len(GRID)
    centres = np.array([nucleus.centroid_px for nucleus in found.nuclei])
    for x, y, _ in GRID:
        expected = (x + 0.5) * factor - 0.5, (y + 0.5) * factor - 0.5
        assert np.hypot(*(centres - expected).T).min() < 0.7
    assert found.median_area_um2 == pytest.approx(math.pi * 2.5**2, rel=0.12)


def test_difference_of_five_percent_is_not_resampled(segmenter: Segmenter) -> None:
    pixels = draw(GRID, 320, 420)
    near = segmenter.segment(pixels, options=SegmentOptions(mpp=0.26))
    assert np.array_equal(near.labels, segmenter.segment(pixels).labels)


def test_least_area_in_either_unit(segmenter: Segmenter) -> None:
    discs = [(40, 40, 6), (100, 40, 12)]  # about 110 and 450 px
    pixels = draw(discs, 96, 160)
    for options, count, least_px in (
        (SegmentOptions(min_area_px=50), 2, 50),
        (SegmentOptions(min_area_px=200), 1, 200),
        (SegmentOptions(min_area_um2=12.5), 1, 200),
        (SegmentOptions(), 2, 64),
    ):
        found = segmenter.segment(pixels, options=options)
        assert found.count == count
        assert found.options.min_area_px == pytest.approx(least_px)


def test_least_area_is_in_the_callers_pixels(segmenter: Segmenter) -> None:
    """A disc of 450 native pixels has 113 at half the resolution."""
    pixels = draw([(50, 40, 6)], 80, 100)
    kept = segmenter.segment(pixels, options=SegmentOptions(mpp=0.5, min_area_px=80))
    dropped = segmenter.segment(pixels, options=SegmentOptions(mpp=0.5, min_area_px=160))
    assert (kept.count, dropped.count) == (1, 0)


def test_threshold_is_used_and_reported(segmenter: Segmenter, he_pixels: Pixels) -> None:
    low = segmenter.segment(he_pixels, options=SegmentOptions(probability_threshold=0.2))
    high = segmenter.segment(he_pixels, options=SegmentOptions(probability_threshold=0.9))
    assert low.options.probability_threshold == 0.2
    assert low.foreground_fraction > high.foreground_fraction
    default = segmenter.segment(he_pixels)
    assert default.options.probability_threshold == 0.5
    assert default.options.seed_threshold == 0.5


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        (SegmentOptions(mpp=0.04), "mpp"),
        (SegmentOptions(mpp=5.1), "mpp"),
        (SegmentOptions(mpp=math.nan), "mpp"),
        (SegmentOptions(probability_threshold=0.0), "threshold"),
        (SegmentOptions(probability_threshold=1.0), "threshold"),
        (SegmentOptions(probability_threshold=math.nan), "threshold"),
        (SegmentOptions(seed_threshold=1.0), "seed_threshold"),
        (SegmentOptions(min_mean_probability=1.0), "min_mean_probability"),
        (SegmentOptions(min_area_px=-1), "min_area_px"),
        (SegmentOptions(min_area_px=math.inf), "min_area_px"),
        (SegmentOptions(min_area_um2=math.nan), "min_area_um2"),
        (SegmentOptions(min_area_px=1, min_area_um2=1), "min_area_um2"),
    ],
)
def test_impossible_options_are_refused(
    segmenter: Segmenter, options: SegmentOptions, parameter: str
) -> None:
    with pytest.raises(InvalidParameterError) as caught:
        segmenter.segment(np.zeros((32, 32, 3), dtype=np.uint8), options=options)
    assert caught.value.parameter == parameter


def test_enlarging_beyond_the_bound_is_refused(session: ModelSession) -> None:
    segmenter = Segmenter(session, max_pixels=100_000)
    pixels = np.full((200, 300, 3), 255, dtype=np.uint8)
    assert segmenter.segment(pixels).count == 0
    with pytest.raises(ImageTooLargeError, match="240000 pixels, more than 100000"):
        segmenter.segment(pixels, options=SegmentOptions(mpp=0.5))


def test_other_arrays_are_refused(segmenter: Segmenter) -> None:
    with pytest.raises(ValueError, match="not \\(H, W, 3\\) uint8"):
        segmenter.segment(np.zeros((32, 32, 4), dtype=np.uint8))


INTERVAL = {
    "level": 0.9,
    "lower_ratio": 0.8,
    "upper_ratio": 1.25,
    "allowance": 2.0,
    "method": "drawn",
    "images": 20,
    "patients": 5,
}


@pytest.fixture(scope="module")
def with_interval(
    tiny_model_factory: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> ModelSession:
    path = tiny_model_factory(
        tmp_path_factory.mktemp("interval") / "model.onnx", count_interval=INTERVAL
    )
    return ModelSession.load(path, provider="cpu", threads=1)


def test_the_count_has_the_interval_that_the_model_states(with_interval: ModelSession) -> None:
    pixels = draw(GRID[:40], 320, 420)
    interval = Segmenter(with_interval).segment(pixels).count_interval
    assert interval == CountInterval(30, 52, 0.9, "drawn")
    # The calibrated values, said aloud, are still the calibrated values.
    same = SegmentOptions(probability_threshold=0.5, seed_threshold=0.5, min_area_um2=4.0, mpp=0.26)
    assert Segmenter(with_interval).segment(pixels, options=same).count_interval == interval


@pytest.mark.parametrize(
    "options",
    [
        SegmentOptions(probability_threshold=0.6),
        SegmentOptions(seed_threshold=0.6),
        SegmentOptions(min_mean_probability=0.1),
        SegmentOptions(min_area_um2=5.0),
        SegmentOptions(min_area_px=65),
        SegmentOptions(mpp=0.5),
    ],
)
def test_no_interval_where_it_was_not_calibrated(
    with_interval: ModelSession, options: SegmentOptions
) -> None:
    pixels = draw(GRID[:4], 64, 64)
    assert Segmenter(with_interval).segment(pixels, options=options).count_interval is None


def test_an_interval_holds_for_the_copies_that_it_was_calibrated_with(
    with_interval: ModelSession, session: ModelSession
) -> None:
    pixels = draw(GRID[:4], 64, 64)
    averaging = Segmenter(with_interval, test_time_augmentation="flips4").segment(pixels)
    assert averaging.count_interval is None
    assert averaging.options.test_time_augmentation == "flips4"
    # And a model that states none has none.
    assert Segmenter(session).segment(pixels).count_interval is None


@pytest.mark.parametrize("augmentation", ["flips4", "dihedral8"])
def test_augmented_maps_are_those_of_the_whole_image_in_any_orientation(
    session: ModelSession, he_pixels: Pixels, augmentation: TestTimeAugmentation
) -> None:
    """One tile of unequal sides, one image of many: what is averaged is what is tiled."""
    segmenter = Segmenter(session, test_time_augmentation=augmentation)
    pixels = np.ascontiguousarray(he_pixels[:128, :192])
    upright = segmenter.segment(pixels).probability
    mirrored = segmenter.segment(np.ascontiguousarray(pixels[:, ::-1])).probability
    assert np.array_equal(mirrored[:, ::-1], upright)
    # The tiny network has no sense of direction: its maps stay what they were, but for rounding.
    plain = Segmenter(session).segment(he_pixels)
    averaged = segmenter.segment(he_pixels)
    assert averaged.tiles == plain.tiles == 9
    difference = averaged.probability.astype(int) - plain.probability
    assert np.abs(difference).max() <= 1


class Heard(Errands):
    """Writes down what it is told."""

    def __init__(self, helpers: Helpers) -> None:
        super().__init__(helpers)
        self.moments: list[str] = []

    def maps_made(self) -> None:
        self.moments.append("maps")

    def labels_made(self, labels: NDArray[np.int32]) -> None:
        self.moments.append(f"{labels.max()} labels")


def test_helpers_change_nothing_but_who_does_the_work(segmenter: Segmenter) -> None:
    image = draw(GRID, 320, 420)
    alone = segmenter.segment(image)
    helpers = Helpers(1)
    with Heard(helpers) as errands:
        helped = segmenter.segment(image, errands=errands)
    helpers.close()
    assert helped.quality == alone.quality
    assert np.array_equal(helped.labels, alone.labels)
    assert errands.moments == ["maps", f"{alone.count} labels"]


def test_outlines_are_judged_at_the_models_resolution(segmenter: Segmenter) -> None:
    """On a coarse grid single nuclei look dented: the flag fired on sound images of 1 um/px."""
    image = draw([], 400, 520)
    for number, (x, y, _) in enumerate(GRID):
        axes = (6 + 2 * (number % 7), 6 + number % 4)
        cv2.ellipse(image, (x, y), axes, 37 * number % 180, 0, 360, PURPLE, -1)
    native_mpp = segmenter.session.contract.input.mpp
    coarse = resize_pixels(image, (100, 130))
    enlarged = resize_pixels(coarse, (400, 520))

    def merged(pixels: Pixels, mpp: float) -> float | None:
        found = segmenter.segment(pixels, mpp).quality
        return next(flag.value for flag in found if flag.name == "merged_nuclei")

    assert merged(coarse, 4 * native_mpp) == merged(enlarged, native_mpp) == 0
