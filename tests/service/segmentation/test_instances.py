"""Separation of touching nuclei: drawn shapes, annotated tiles, and arbitrary maps."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.typing import NDArray

from service.segmentation.instances import separate

Labels = NDArray[np.int32]
Maps = NDArray[np.uint8]
IdealMaps = Callable[[Labels], Maps]
Grown = Callable[..., Labels]


def run(maps: Maps, min_area_px: float = 0, threshold: float = 0.5) -> Labels:
    return separate(
        maps, probability_threshold=threshold, seed_threshold=0.5, min_area_px=min_area_px
    )


def one_channel(mask: NDArray[np.bool_]) -> Maps:
    return (mask[..., None] * 255).astype(np.uint8)


def draw_discs(*discs: tuple[int, int, int], size: int = 96) -> Labels:
    """Label discs (x, y, radius); where two overlap the nearer centre, by radii, wins."""
    y, x = np.mgrid[0:size, 0:size]
    relative = np.stack([np.hypot(x - cx, y - cy) / r for cx, cy, r in discs])
    return np.where(relative.min(0) <= 1, relative.argmin(0) + 1, 0).astype(np.int32)


def same_partition(found: Labels, truth: Labels) -> float:
    """Share of the truth's foreground that lies in the found label matched to its nucleus."""
    right = 0
    for label in np.unique(truth[truth > 0]):
        counts = np.bincount(found[truth == label], minlength=2)
        best = int(counts[1:].argmax()) + 1
        right += int(np.sum((found == best) & (truth == label)))
    return right / int(np.sum(truth > 0))


TOUCHING = [
    ((30, 48, 15), (60, 48, 15)),
    ((30, 48, 15), (54, 48, 15)),
    ((30, 30, 12), (52, 30, 12), (41, 49, 12)),
    ((30, 48, 20), (57, 48, 8)),
    ((14, 14, 12), (38, 14, 12), (14, 38, 12), (38, 38, 12)),
]


@pytest.mark.parametrize("discs", TOUCHING)
def test_touching_discs_with_ideal_maps_are_separated(
    discs: tuple[tuple[int, int, int], ...], ideal_maps: IdealMaps
) -> None:
    truth = draw_discs(*discs)
    assert cv2.connectedComponents((truth > 0).astype(np.uint8))[0] == 2, "they do not touch"
    found = run(ideal_maps(truth))
    assert found.max() == len(discs)
    assert np.array_equal(found > 0, truth > 0)
    assert same_partition(found, truth) >= 0.985


@pytest.mark.parametrize("discs", TOUCHING)
def test_touching_discs_are_separated_by_shape_alone(
    discs: tuple[tuple[int, int, int], ...],
) -> None:
    truth = draw_discs(*discs)
    found = run(one_channel(truth > 0))
    assert found.max() == len(discs)
    assert np.array_equal(found > 0, truth > 0)
    assert same_partition(found, truth) >= 0.94


def test_distance_separates_what_shape_cannot(ideal_maps: IdealMaps) -> None:
    """Two halves of one disc: without the learned channel there is nothing to see."""
    truth = draw_discs((48, 48, 24))
    truth[:, 48:] *= 2
    assert run(ideal_maps(truth)).max() == 2
    assert run(one_channel(truth > 0)).max() == 1


def test_one_disc_and_one_ellipse_stay_whole() -> None:
    canvas = np.zeros((96, 96), dtype=np.uint8)
    cv2.ellipse(canvas, (48, 48), (36, 14), 30, 0, 360, 1, -1)
    assert run(one_channel(canvas > 0)).max() == 1


def test_noise_on_a_plateau_makes_no_extra_seeds(ideal_maps: IdealMaps) -> None:
    generator = np.random.default_rng(7)
    truth = draw_discs((30, 48, 15), (60, 48, 15))
    maps = ideal_maps(truth).astype(np.int16)
    maps[..., 1] += generator.normal(0, 25, truth.shape).astype(np.int16)
    assert run(np.clip(maps, 0, 255).astype(np.uint8)).max() == 2


def test_speck_in_the_distance_map_is_no_seed(ideal_maps: IdealMaps) -> None:
    """Two bright pixels in the slope: they survive the smoothing, and are still no nucleus."""
    truth = draw_discs((48, 48, 24))
    maps = ideal_maps(truth)
    assert run(maps).max() == 1
    maps[32, 48:50, 1] = 255
    assert run(maps).max() == 1
    maps[30:33, 47:51, 1] = 255
    assert run(maps).max() == 2, "a dozen of them are one"


def test_speck_counts_where_it_is_the_only_seed() -> None:
    maps = np.zeros((40, 60, 2), dtype=np.uint8)
    maps[10:20, 10:50, 0] = 255
    maps[14:16, 20, 1] = 255
    assert run(maps).max() == 1


def test_component_without_a_seed_is_one_nucleus() -> None:
    maps = np.zeros((40, 40, 2), dtype=np.uint8)
    maps[5:15, 5:15, 0] = 200
    maps[20:30, 20:30, 0] = 200
    maps[23:27, 23:27, 1] = 255
    assert run(maps).max() == 2


def test_what_no_seed_reaches_is_no_nucleus_of_several_pieces() -> None:
    """Two specks of 16 px hang on two nuclei by a corner each, which flooding does not pass."""
    maps = np.zeros((40, 80, 2), dtype=np.uint8)
    maps[10:30, 20:60, 0] = 255
    maps[18:22, 28:32, 1] = maps[18:22, 48:52, 1] = 255
    maps[6:10, 16:20, 0] = maps[30:34, 60:64, 0] = 255
    assert np.bincount(run(maps).ravel())[1:].tolist() == [400, 400, 16, 16]
    assert run(maps, min_area_px=20).max() == 2


@pytest.mark.parametrize("channels", [1, 2])
def test_image_border_is_foreground_like_any_other(channels: int) -> None:
    maps = np.full((32, 48, channels), 255, dtype=np.uint8)
    assert np.all(run(maps) == 1)


@pytest.mark.parametrize("channels", [1, 2])
def test_empty_map_has_no_nuclei(channels: int) -> None:
    labels = run(np.zeros((20, 30, channels), dtype=np.uint8))
    assert labels.shape == (20, 30)
    assert labels.dtype == np.int32
    assert not labels.any()


def test_threshold_is_inclusive() -> None:
    maps = np.full((8, 8, 1), 128, dtype=np.uint8)
    assert run(maps, threshold=128 / 255).max() == 1
    assert run(maps, threshold=128.5 / 255).max() == 0


def test_small_nuclei_are_dropped_and_numbers_close_up() -> None:
    maps = np.zeros((30, 60, 1), dtype=np.uint8)
    maps[2:5, 2:5] = 255  # 9 px
    maps[10:14, 20:25] = 255  # 20 px
    maps[10:20, 40:50] = 255  # 100 px
    labels = run(maps, min_area_px=20)
    assert sorted(np.unique(labels)) == [0, 1, 2]
    assert run(maps, min_area_px=20.5).max() == 1
    assert not labels[2:5, 2:5].any()


def test_hole_in_a_nucleus_is_filled() -> None:
    maps = one_channel(draw_discs((48, 48, 20)) > 0)
    maps[46:50, 46:50] = 0
    maps[48, 60] = 0
    labels = run(maps, min_area_px=200)
    assert np.all(labels[draw_discs((48, 48, 20)) > 0] == labels[48, 60])


def test_gap_between_three_nuclei_stays(ideal_maps: IdealMaps) -> None:
    truth = draw_discs((30, 30, 12), (54, 30, 12), (42, 51, 12))
    assert truth[36, 42] == 0
    labels = run(ideal_maps(truth))
    assert labels.max() == 3
    assert labels[36, 42] == 0


def test_dropped_speck_within_a_nucleus_leaves_no_hole() -> None:
    maps = np.zeros((40, 40, 1), dtype=np.uint8)
    maps[5:35, 5:35] = 255
    maps[15:25, 15:25] = 0
    maps[18:21, 18:21] = 255
    assert np.all(run(maps, min_area_px=50)[5:35, 5:35] == 1)


def test_bay_open_to_the_border_is_no_hole() -> None:
    maps = np.full((20, 20, 1), 255, dtype=np.uint8)
    maps[8:12, 0:12] = 0
    assert not run(maps)[8:12, 0:12].any()


@pytest.mark.parametrize("upright", [False, True])
def test_sides_beyond_16_bits_are_like_any_other(*, upright: bool) -> None:
    maps = np.zeros((24, 70_000, 1), dtype=np.uint8)
    for x in (20, 40_000, 69_960):
        maps[4:20, x : x + 16] = 255
        maps[10:14, x + 6 : x + 10] = 0
    labels = run(maps.transpose(1, 0, 2).copy() if upright else maps)
    assert np.bincount(labels.ravel())[1:].tolist() == [256, 256, 256]


ANNOTATED = ["tnbc_p07_1", "tnbc_p08_2", "nucls_test_1", "nucls_test_2", "nucls_test_5"]


def read_annotated(test_data: Path, stem: str) -> Labels:
    image = cv2.imread(str(test_data / "labels" / f"{stem}.png"), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return image.astype(np.int32)


def whole_nuclei(labels: Labels) -> int:
    return len(np.unique(labels[labels > 0]))


@pytest.mark.parametrize("stem", ANNOTATED)
def test_annotated_nuclei_with_ideal_maps_come_back(
    test_data: Path, stem: str, ideal_maps: IdealMaps, grown: Grown
) -> None:
    truth = grown(read_annotated(test_data, stem))
    found = run(ideal_maps(truth))
    # An annotation in two pieces cannot come back as one.
    assert abs(int(found.max()) / whole_nuclei(truth) - 1) <= 0.03
    assert same_partition(found, truth) >= 0.985


def test_shape_alone_restores_the_count_of_grown_truth(test_data: Path, grown: Grown) -> None:
    """Plain components lose a fifth of TNBC's nuclei when outlines are one pixel too wide."""
    truths = [grown(read_annotated(test_data, stem)) for stem in ANNOTATED[:2]]
    expected = sum(whole_nuclei(truth) for truth in truths)
    masks = [one_channel(truth > 0) for truth in truths]
    found = sum(int(run(mask, min_area_px=10).max()) for mask in masks)
    plain = sum(cv2.connectedComponents(mask[..., 0])[0] - 1 for mask in masks)
    assert plain / expected < 0.9, "the test no longer shows touching nuclei"
    assert abs(found / expected - 1) <= 0.02


@pytest.mark.slow
def test_shape_alone_restores_the_count_of_all_of_tnbc(shared: Path, grown: Grown) -> None:
    expected = found = 0
    for path in sorted((shared / "data" / "tnbc" / "labels").glob("*.png")):
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert image is not None
        truth = grown(image.astype(np.int32))
        expected += whole_nuclei(truth)
        found += int(run(one_channel(truth > 0), min_area_px=10).max())
    assert expected > 3000
    assert abs(found / expected - 1) <= 0.01


@given(
    st_numpy.arrays(
        np.uint8,
        st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 2)),
        elements=st.sampled_from([0, 90, 127, 128, 200, 255]),
    ),
    st.sampled_from([0, 3, 12.5]),
)
@settings(max_examples=300, deadline=None)
def test_any_map_gives_sound_labels(maps: Maps, min_area_px: float) -> None:
    """Noise is the worst case: seeds that touch by corners, lines one pixel wide, islands."""
    before = maps.copy()
    labels = run(maps, min_area_px=min_area_px)
    assert np.array_equal(maps, before)
    assert labels.shape == maps.shape[:2]
    assert labels.dtype == np.int32
    area = np.bincount(labels.ravel())
    assert np.all(area[1:] >= max(1, min_area_px)), "no gaps in the numbers, none too small"
    foreground = maps[..., 0] >= 128
    if min_area_px == 0:
        assert np.all(labels[foreground] > 0), "all of the foreground belongs to a nucleus"
    for label in range(1, len(area)):
        assert np.any(foreground & (labels == label))
    assert np.array_equal(run(maps, min_area_px=min_area_px), labels), "deterministic"


@pytest.mark.parametrize(
    "maps",
    [
        np.zeros((8, 8), dtype=np.uint8),
        np.zeros((8, 8, 3), dtype=np.uint8),
        np.zeros((8, 8, 1), dtype=np.float32),
    ],
)
def test_other_arrays_are_refused(maps: Maps) -> None:
    with pytest.raises(ValueError, match="maps of shape"):
        run(maps)


def test_nuclei_of_little_mean_probability_are_dropped() -> None:
    maps = np.zeros((40, 90, 2), dtype=np.uint8)
    maps[10:20, 10:20] = 255
    maps[10:20, 40:50, 0] = 140  # faint throughout
    maps[10:20, 70:80, 0] = 140  # faint at the rim alone: 64 px of 255, 36 of 140
    maps[11:19, 71:79, 0] = 255
    common = {"probability_threshold": 0.5, "seed_threshold": 0.5, "min_area_px": 4}
    assert separate(maps, **common).max() == 3
    found = separate(maps, **common, min_mean_probability=0.8)
    assert found.max() == 2
    assert not found[:, 40:50].any()
    # Those that stay keep all of their pixels, and numbers without gaps.
    assert np.array_equal(np.bincount(found.ravel())[1:], [100, 100])
    exactly = (64 * 255 + 36 * 140) / 100 / 255
    assert separate(maps, **common, min_mean_probability=exactly - 1e-9).max() == 2
    assert separate(maps, **common, min_mean_probability=exactly + 1e-9).max() == 1
