"""Processor flags, and what they say of a precision."""

from pathlib import Path

import pytest

from service.inference.precision import Precision, processor_flags, processor_suits

CPUINFO = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 avx512_vnni\nbugs\t: none\n"


def test_flags_are_those_of_the_first_processor(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(CPUINFO + CPUINFO.replace("avx512_vnni", "amx_int8"))
    assert processor_flags(path) == {"fpu", "avx2", "avx512_vnni"}


def test_no_flags_is_not_the_same_as_unknown_flags(tmp_path: Path) -> None:
    assert processor_flags(tmp_path / "absent") is None
    arm = tmp_path / "cpuinfo"
    arm.write_text("processor\t: 0\nFeatures\t: fp asimd bf16\n")
    assert processor_flags(arm) is None


@pytest.mark.parametrize(
    ("precision", "flags", "suits"),
    [
        ("fp32", set(), True),
        ("fp16", set(), True),
        ("int8", {"avx2"}, False),
        ("int8", {"avx_vnni"}, True),
        ("int8", {"avx512_vnni"}, True),
        ("bf16", {"avx512_vnni"}, False),
        ("bf16", {"avx512_bf16"}, True),
        ("bf16", {"amx_bf16"}, True),
        ("bf16", None, None),
        ("fp32", None, True),
    ],
)
def test_a_precision_needs_its_instructions(
    precision: Precision, flags: set[str] | None, suits: bool | None
) -> None:
    assert processor_suits(precision, None if flags is None else frozenset(flags)) is suits
