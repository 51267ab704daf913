"""The page of ablations: a change that is more than the spread of the seeds stands out."""

import argparse
import json
from pathlib import Path

import pytest

pytest.importorskip("tensorflow", reason="needs the extra `train`")

from benchmarks.ablations import CHANGED, PLAIN, Figures, Variant, page, write_recipe
from training.config import TrainingConfig


def figures(variant: Variant, dice: float) -> Figures:
    names = ("tnbc", "monuseg_breast", "nucls")
    return Figures(variant, {name: {"dice": dice, "f1_at_0.5": 0.8} for name in names})


def test_a_change_is_told_apart_from_luck() -> None:
    measured = [figures(one, dice) for one, dice in zip(PLAIN, (0.79, 0.80, 0.81), strict=True)]
    measured += [figures(CHANGED[0], 0.77), figures(CHANGED[1], 0.81)]
    augmented = next(one for one in CHANGED if one.augmented)
    measured.append(figures(augmented, 0.793))
    lines = page(measured, "command", "facts").splitlines()
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in lines if line[:2] == "| "}
    assert "0.800 | 0.800" in rows["**their mean**"]
    assert "0.020 | 0.000" in rows["their range"]
    assert "**-0.030** | +0.000" in rows[CHANGED[0].what]
    assert "| +0.010 | +0.000" in rows[CHANGED[1].what]
    assert "| +0.003 | +0.000" in rows[augmented.what], "against seed 1, not the mean"


def test_two_seeds_that_agree_prove_nothing() -> None:
    measured = [figures(PLAIN[0], 0.8), figures(PLAIN[1], 0.8), figures(CHANGED[0], 0.7)]
    text = page(measured, "command", "facts")
    assert "| -0.100 | +0.000" in text
    assert "**-0.100**" not in text


@pytest.mark.parametrize("variant", CHANGED, ids=lambda variant: variant.what)
def test_a_variant_differs_from_the_recipe_in_one_thing(variant: Variant, tmp_path: Path) -> None:
    options = argparse.Namespace(encoder_dir=None, runs=tmp_path)

    def recipe(one: Variant) -> dict[str, object]:
        values = json.loads(write_recipe(one, options).read_text("utf-8"))
        return TrainingConfig.model_validate(values).model_dump()

    plain = recipe(PLAIN[0])
    changed = recipe(variant)
    differing = {name for name in plain if plain[name] != changed[name]}
    assert len(differing) == (0 if variant.augmented else 1)
