"""What the history of a run says, in plain words, and what to do about it."""

from typing import Final

from training.run_folder import RunRecord

MEANINGS: Final[dict[str, tuple[str, str]]] = {
    "val_dice": (
        "Dice",
        "overlap of predicted and annotated nucleus area: 1 is perfect, 0 is none",
    ),
    "val_iou": (
        "IoU",
        "shared area over joint area; always below Dice, 0.7 here is a Dice of 0.82",
    ),
    "val_average_precision": (
        "average precision",
        "how well probabilities rank nucleus above background, over all thresholds",
    ),
    "val_auc": (
        "AUC",
        "chance that a nucleus pixel gets a higher probability than a background pixel",
    ),
    "val_accuracy": (
        "pixel accuracy",
        "share of pixels that are right; an empty mask is already right in most of them",
    ),
    "val_loss": ("loss", "what training lowers; comparable between runs of one recipe only"),
}
"""Column of the history to its name and meaning."""

_POOR_DICE: Final = 0.5
_WIDE_GAP: Final = 0.12
_RISE: Final = 0.1
_STILL_GAINING: Final = 0.01


def findings(record: RunRecord) -> list[str]:
    """Doubts about a run, each with its remedy; none where nothing stands out."""
    best, last, rows = record.best, record.history[-1], record.history
    found = []
    if best["val_dice"] < _POOR_DICE:
        found.append(
            f"The model has hardly learnt: its best validation Dice is {best['val_dice']:.2f}. "
            "Look at the annotation first (`python -m training check DATA`), then train for more "
            "epochs or lower learning_rate."
        )
    early = [row["val_dice"] for row in rows if row["epoch"] <= 0.7 * len(rows)]
    if early and last["epoch"] >= record.config.epochs:
        gained = best["val_dice"] - max(early)
        if gained > _STILL_GAINING:
            found.append(
                f"The last third of the epochs still raised the validation Dice by {gained:.3f}: "
                "more epochs are likely to pay."
            )
    lowest = min(rows, key=lambda row: row["val_loss"])
    rising = last["val_loss"] > lowest["val_loss"] * (1 + _RISE)
    if rising and last["loss"] < lowest["loss"] and last["epoch"] - lowest["epoch"] > 2:
        found.append(
            f"The validation loss rose after epoch {lowest['epoch']:.0f} while the training loss "
            "fell: the model learns its training images by heart. More patients or stronger "
            "augmentation help, more epochs do not. The model that was kept is of epoch "
            f"{best['epoch']:.0f}."
        )
    gap = best["dice"] - best["val_dice"]
    if gap > _WIDE_GAP:
        found.append(
            f"Dice on training crops is {gap:.2f} above that on the validation patients: new "
            "patients look different. Annotated images of more patients help most."
        )
    patients = sum(len(groups) for groups in record.images("validation").values())
    if patients == 1:
        found.append(
            "One patient judges this run; on another one the figures may be far off. Hold out two "
            "or more, or cross-validate with --hold-out."
        )
    if last["epoch"] < record.config.epochs:
        found.append(_ended_early(record))
    return found


def _ended_early(record: RunRecord) -> str:
    last, planned = record.history[-1]["epoch"], record.config.epochs
    if (record.folder / "state.npz").is_file():
        return (
            f"The run stands at epoch {last:.0f} of {planned}; "
            f"`python -m training resume {record.folder}` goes on."
        )
    return (
        f"The run ended at epoch {last:.0f} of {planned}: {record.config.early_stopping_epochs} "
        "epochs brought nothing better."
    )
