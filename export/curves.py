"""The curves of a model as plain lists, so that a report draws several models in one plot."""

from collections.abc import Iterable
from typing import Any

from training.probability import ProbabilityHistogram


def curves(levels: ProbabilityHistogram) -> dict[str, Any]:
    """ROC, precision-recall and reliability as they stand in `metrics.json`.

    At most 257 points each, one for each level of the map that occurs.
    """
    false_positive_rate, true_positive_rate = levels.roc()
    recall, precision = levels.precision_recall()
    bins = levels.reliability()
    return {
        "roc": {
            "false_positive_rate": _listed(false_positive_rate),
            "true_positive_rate": _listed(true_positive_rate),
        },
        "precision_recall": {"recall": _listed(recall), "precision": _listed(precision)},
        "reliability": {
            "stated": _listed([item.mean_probability for item in bins]),
            "observed": _listed([item.observed_fraction for item in bins]),
            "pixels": [item.pixels for item in bins],
        },
    }


def _listed(values: Iterable[float]) -> list[float]:
    return [round(float(value), 5) for value in values]
