"""Streaming metrics of the nucleus channel, pooled over pixels, shown while training.

Pixel accuracy is among them because the field reports it, and is the reason to watch Dice: in TNBC
an all-black mask has an accuracy of 0.875 and a Dice of 0.
"""

import keras
from keras import ops


class _ConfusionMetric(keras.metrics.Metric):
    """Counts of hits, false alarms, misses and correct rejections at probability 0.5."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self.hits = self.add_weight(name="hits", initializer="zeros")
        self.false_alarms = self.add_weight(name="false_alarms", initializer="zeros")
        self.misses = self.add_weight(name="misses", initializer="zeros")
        self.rejections = self.add_weight(name="rejections", initializer="zeros")

    def update_state(
        self, y_true: object, y_pred: object, sample_weight: object | None = None
    ) -> None:
        """Add a batch of (N, H, W, C) maps; weights are not used."""
        del sample_weight
        truth = ops.cast(ops.convert_to_tensor(y_true)[..., 0] > 0.5, "float32")
        found = ops.cast(ops.convert_to_tensor(y_pred)[..., 0] > 0.5, "float32")
        self.hits.assign_add(ops.sum(truth * found))
        self.false_alarms.assign_add(ops.sum((1 - truth) * found))
        self.misses.assign_add(ops.sum(truth * (1 - found)))
        self.rejections.assign_add(ops.sum((1 - truth) * (1 - found)))


class ForegroundDice(_ConfusionMetric):
    """2 TP / (2 TP + FP + FN); 1 where there is neither truth nor prediction."""

    def result(self) -> object:
        """Dice of all batches so far."""
        missed = self.false_alarms + self.misses
        return (2 * self.hits + 1e-6) / (2 * self.hits + missed + 1e-6)


class ForegroundIoU(_ConfusionMetric):
    """TP / (TP + FP + FN); 1 where there is neither truth nor prediction."""

    def result(self) -> object:
        """IoU of all batches so far."""
        missed = self.false_alarms + self.misses
        return (self.hits + 1e-6) / (self.hits + missed + 1e-6)


class PixelAccuracy(_ConfusionMetric):
    """(TP + TN) / all."""

    def result(self) -> object:
        """Accuracy of all batches so far."""
        correct = self.hits + self.rejections
        return correct / (correct + self.false_alarms + self.misses + 1e-6)


class NucleusAUC(keras.metrics.AUC):
    """Area under the ROC curve, or under precision-recall (average precision), of channel 0."""

    def update_state(
        self, y_true: object, y_pred: object, sample_weight: object | None = None
    ) -> None:
        """Add a batch of (N, H, W, C) maps; weights are not used."""
        del sample_weight
        truth = ops.cast(ops.convert_to_tensor(y_true)[..., 0] > 0.5, "float32")
        super().update_state(ops.ravel(truth), ops.ravel(ops.convert_to_tensor(y_pred)[..., 0]))


def make_metrics() -> list[keras.metrics.Metric]:
    """All metrics of a run: dice, iou, accuracy, auc, average_precision."""
    return [
        ForegroundDice(name="dice"),
        ForegroundIoU(name="iou"),
        PixelAccuracy(name="accuracy"),
        NucleusAUC(name="auc", num_thresholds=101),
        NucleusAUC(name="average_precision", curve="PR", num_thresholds=101),
    ]
