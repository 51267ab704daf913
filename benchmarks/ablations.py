"""What each ingredient of the training is worth: one left out or put in at a time.

    python -m benchmarks.ablations --encoder-dir WEIGHTS [--only plain,no-ema] [--publish]

Every variant is `training/recipes/protocol.toml` (MobileNetV2 U-Net, 500 steps) with one thing
changed, trained, calibrated on TNBC 07-08 and measured there and on two sets from elsewhere, by
commands that a user could type (they are printed): `training fit`, `export model` and `export
evaluate`. The unchanged recipe runs under several seeds, for a change that is no larger than theirs
means nothing. Runs that are complete are not made again. Some ten minutes a variant on two cores.
"""

import argparse
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import facts_sentence, machine_facts
from benchmarks.protocol import RECIPE, encoder_weights, run
from benchmarks.publish import REPOSITORY, markdown_table, write_figures
from training.config import load_config

ARCHITECTURE = "mobilenetv2_unet"
VERSION = "0.0.1"
HOME = "tnbc"
ELSEWHERE = ("monuseg_breast", "nucls")
PAGE = REPOSITORY / "docs" / "results" / "ablations.md"
_LEAST_SEEDS = 3


@dataclass(frozen=True)
class Variant:
    """The recipe with one thing changed.

    Attributes:
        name: Of its run folder.
        what: What was changed, for people.
        changes: Settings by name; those of `augmentation` by theirs.
        without: A data source that is left out.
        augmented: How the service augments at test time, where it does.
    """

    name: str
    what: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    without: str | None = None
    augmented: str | None = None

    @property
    def key(self) -> str:
        """What it is called on the command line and in the figures."""
        return self.name if self.augmented is None else f"{self.name}-{self.augmented}"


PLAIN = (
    Variant("plain", "the recipe, seed 1"),
    Variant("plain-2", "the recipe, seed 2", {"seed": 2}),
    Variant("plain-3", "the recipe, seed 3", {"seed": 3}),
)
CHANGED = (
    Variant("no-stain", "no stain and brightness augmentation",
            {"augmentation": {"stain": 0.0, "brightness": 0.0}}),
    Variant("no-elastic", "no elastic deformation", {"augmentation": {"elastic_px": 0.0}}),
    Variant("no-ema", "the last weights for their moving average", {"ema_momentum": 0.0}),
    Variant("no-nuinsseg", "TNBC alone, without NuInsSeg", without="nuinsseg"),
    Variant("boundary", "edges weighed up to three times (`boundary_weight = 2`)",
            {"boundary_weight": 2.0}),
    Variant("macenko", "half of the crops with the stain of another, by Macenko",
            {"augmentation": {"stain_normalisation": "macenko"}}),
    Variant("no-imagenet", "random weights for the encoder's", {"encoder_weights": None}),
    Variant("plain", "eight turned and mirrored copies averaged at test time",
            augmented="dihedral8"),
)  # fmt: skip


@dataclass(frozen=True)
class Figures:
    """What was measured of one variant, pooled figures by data set and name."""

    variant: Variant
    pooled: Mapping[str, Mapping[str, float]]


def write_recipe(variant: Variant, options: argparse.Namespace) -> Path:
    """Write the recipe of a variant beside its run folder."""
    weights = encoder_weights(ARCHITECTURE, options.encoder_dir)
    config = load_config(Path(RECIPE), {"encoder_weights": None if weights == "none" else weights})
    values = config.model_dump(mode="json")
    for name, value in variant.changes.items():
        values[name] = {**values[name], **value} if isinstance(value, dict) else value
    values["data"] = [source for source in values["data"] if source["name"] != variant.without]
    path: Path = options.runs / f"{variant.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")
    return path


def measure(variant: Variant, options: argparse.Namespace) -> Figures:
    """Train, release and evaluate a variant, as far as that is not done."""
    folder, out = options.runs / variant.name, options.runs / "exported"
    root: Path = options.data_root
    if not (folder / "metrics.json").is_file():
        run("training", "fit", str(write_recipe(variant, options)),
            "--data-root", str(root), "--run-dir", str(folder))  # fmt: skip
    version = out / variant.name / VERSION
    if not (version / "model.onnx").is_file():
        # No training image lies below the runs: nobody serves these, so no quality reference.
        run("export", "model", str(folder), "--validation", str(root / HOME), "--groups", "07,08",
            "--name", variant.name, "--version", VERSION, "--data-root", str(options.runs),
            "--out", str(out))  # fmt: skip
    sets = {HOME: ("--groups", "07,08"), **dict.fromkeys(ELSEWHERE, ())}
    pooled = {}
    for name, chosen in sets.items():
        place = options.runs / "measured" / variant.key / name
        if not (place / "metrics.json").is_file():
            run("export", "evaluate", str(version / "model.onnx"), str(root / name), *chosen,
                "--out", str(place), "--test-time-augmentation",
                variant.augmented or "none")  # fmt: skip
        pooled[name] = json.loads((place / "metrics.json").read_text("utf-8"))["pooled"]
    return Figures(variant, pooled)


def page(figures: Sequence[Figures], command: str, facts: str) -> str:
    """Return the page: the spread of the recipe, then every change against its mean."""
    same = [item for item in figures if item.variant in PLAIN]
    rows = [_row(item.variant.what, _of(item)) for item in same]
    means = [statistics.mean(values) for values in zip(*(_of(item) for item in same), strict=True)]
    spread = [
        max(values) - min(values) for values in zip(*(_of(item) for item in same), strict=True)
    ]
    rows.append(_row("**their mean**", means))
    rows.append(["their range", *(f"{value:.3f}" for value in spread)])
    # Two seeds may agree by chance.
    luck = spread if len(same) >= _LEAST_SEEDS else [math.inf] * len(means)
    by_key = {item.variant.key: item for item in figures}
    for item in figures:
        if item in same:
            continue
        # What is done to a finished model is compared with that model, and no seed comes between.
        itself = by_key.get(item.variant.name) if item.variant.augmented else None
        against = (means, luck) if itself is None else (_of(itself), [math.inf] * len(means))
        changes = zip(_of(item), *against, strict=True)
        rows.append([item.variant.what, *(_change(*change) for change in changes)])
    head = ["", *(f"{title}, {name}" for title in _TITLES.values() for name in ("Dice", "F1@0.5"))]
    return f"""# What each ingredient is worth

Made by

```sh
{command}
```

`training/recipes/protocol.toml` (MobileNetV2 U-Net, 500 steps of 8 crops of 128 px), one thing
changed at a time. The upper rows are the unchanged recipe under {len(same)} seeds; the lower ones
say how far each change leads from their mean, in bold where that is more than the range of at least
three seeds; test-time augmentation is compared with the very model that it is done to (seed 1).
Thresholds were chosen on TNBC 07-08 for each; MoNuSeg and NuCLS, from other laboratories, were only
measured. So short a training shows what is worth most early on, and one seed a change no more than
what is large.

{markdown_table(head, rows)}

{facts}
"""


_TITLES = {HOME: "TNBC 07-08", "monuseg_breast": "MoNuSeg breast", "nucls": "NuCLS"}


def _of(item: Figures) -> list[float]:
    return [item.pooled[name][key] for name in _TITLES for key in ("dice", "f1_at_0.5")]


def _row(what: str, values: Iterable[float]) -> list[str]:
    return [what, *(f"{value:.3f}" for value in values)]


def _change(value: float, mean: float, spread: float) -> str:
    text = f"{value - mean:+.3f}"
    return f"**{text}**" if abs(value - mean) > spread else text


def main() -> None:
    """Measure what was asked for and print the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--encoder-dir", type=Path, help="Folder of .h5 weight files.")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--only", default="", help="Variants, with commas between; default all.")
    parser.add_argument("--publish", action="store_true", help="Write docs/results/ablations.md.")
    options = parser.parse_args()
    names = {name for name in options.only.split(",") if name}
    variants = (*PLAIN, *CHANGED)
    chosen = [item for item in variants if not names or item.key in names]
    if unknown := names - {item.key for item in variants}:
        parser.error(f"no variant {', '.join(sorted(unknown))}")
    if not any(item in PLAIN for item in chosen):
        parser.error("a change is measured against the recipe: add `plain` to --only")
    facts = machine_facts()
    figures = [measure(item, options) for item in chosen]
    text = page(figures, str(facts["command"]), facts_sentence(facts))
    print(text)
    if options.publish:
        PAGE.write_text(text, encoding="utf-8")
        document = {
            item.variant.key: {name: dict(values) for name, values in item.pooled.items()}
            for item in figures
        }
        write_figures(PAGE.with_suffix(".json"), document)


if __name__ == "__main__":
    main()
