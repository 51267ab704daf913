"""Losses over the packed maps: nucleus in channel 0, distance, where learned, in channel 1."""

from collections.abc import Callable

import keras
from keras import ops

EPSILON = 1e-6


def binary_crossentropy(
    truth: keras.KerasTensor, prediction: keras.KerasTensor
) -> keras.KerasTensor:
    """Mean binary cross-entropy; the truth may lie between 0 and 1."""
    prediction = ops.clip(prediction, EPSILON, 1 - EPSILON)
    return -ops.mean(truth * ops.log(prediction) + (1 - truth) * ops.log(1 - prediction))


def soft_dice_loss(truth: keras.KerasTensor, prediction: keras.KerasTensor) -> keras.KerasTensor:
    """1 - Dice of the whole batch (Milletari et al., V-Net, 2016).

    Over the batch, not per image: a crop without a nucleus has no Dice of its own, and must not
    reward or punish the model by the smoothing constant.
    """
    intersection = ops.sum(truth * prediction)
    total = ops.sum(truth) + ops.sum(prediction)
    return 1 - (2 * intersection + 1) / (total + 1)


def focal_tversky_loss(
    truth: keras.KerasTensor,
    prediction: keras.KerasTensor,
    *,
    alpha: float = 0.7,
    gamma: float = 0.75,
) -> keras.KerasTensor:
    """Focal Tversky loss (Abraham and Khan, 2019): misses cost `alpha`, false alarms the rest."""
    hit = ops.sum(truth * prediction)
    missed = ops.sum(truth * (1 - prediction))
    false_alarm = ops.sum((1 - truth) * prediction)
    tversky = (hit + 1) / (hit + alpha * missed + (1 - alpha) * false_alarm + 1)
    return ops.power(ops.maximum(1 - tversky, EPSILON), gamma)


def bce_dice_loss(truth: keras.KerasTensor, prediction: keras.KerasTensor) -> keras.KerasTensor:
    """Binary cross-entropy plus soft Dice loss."""
    return binary_crossentropy(truth, prediction) + soft_dice_loss(truth, prediction)


NUCLEUS_LOSSES: dict[str, Callable[..., keras.KerasTensor]] = {
    "bce_dice": bce_dice_loss,
    "focal_tversky": focal_tversky_loss,
}
"""Losses of the nucleus channel, by name."""


def make_loss(name: str, *, distance_weight: float) -> Callable[..., keras.KerasTensor]:
    """Compose the loss of all channels.

    The distance map is learned by cross-entropy against its value in 0..1, as StarDist learns its
    object probability: its gradient does not vanish where the sigmoid is flat, as that of the
    squared error does.

    Args:
        name: a key of `NUCLEUS_LOSSES`.
        distance_weight: weight of the distance channel, where there is one.

    Raises:
        KeyError: for an unknown name.
    """
    nucleus_loss = NUCLEUS_LOSSES[name]

    def loss(truth: keras.KerasTensor, prediction: keras.KerasTensor) -> keras.KerasTensor:
        truth = ops.cast(truth, prediction.dtype)
        total = nucleus_loss(truth[..., 0], prediction[..., 0])
        if prediction.shape[-1] > 1:
            total = total + distance_weight * binary_crossentropy(truth[..., 1], prediction[..., 1])
        return total

    return loss
