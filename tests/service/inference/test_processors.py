"""How many threads a container's quota leaves."""

import os
from pathlib import Path

import pytest

from service.inference.processors import usable_processors

AFFINITY = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def test_without_control_groups_affinity_counts(tmp_path: Path) -> None:
    assert usable_processors(tmp_path) == AFFINITY


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("100000 100000\n", 1),
        ("50000 100000\n", 1),
        ("6400000 100000\n", AFFINITY),
        ("max 100000\n", AFFINITY),
        ("nonsense", AFFINITY),
    ],
)
def test_version_2_quota(tmp_path: Path, text: str, expected: int) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert usable_processors(tmp_path) == expected


@pytest.mark.parametrize(("quota", "expected"), [("100000", 1), ("-1", AFFINITY)])
def test_version_1_quota(tmp_path: Path, quota: str, expected: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_processors(tmp_path) == expected


def test_this_machine_has_one() -> None:
    assert usable_processors() >= 1
