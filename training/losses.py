"""Losses over the packed maps: nucleus in channel 0, distance, where learned, in channel 1."""

from collections.abc import Callable

import keras
from keras import ops

EPSILON = 1e-6

NEAR_EDGE = 0.25
"""Below this share of its peak distance a pixel counts as near the edge of its nucleus."""


def binary_crossentropy(
    truth: keras.KerasTensor,
    prediction: keras.KerasTensor,
    weights: keras.KerasTensor | None = None,
) -> keras.KerasTensor:
    """Mean binary cross-entropy; the truth may lie between 0 and 1.

    Args:
        truth: (N, H, W).
        prediction: (N, H, W), 0..1.
        weights: (N, H, W); the mean is weighted by them.
    """
    prediction = ops.clip(prediction, EPSILON, 1 - EPSILON)
    losses = -(truth * ops.log(prediction) + (1 - truth) * ops.log(1 - prediction))
    if weights is None:
        return ops.mean(losses)
    return ops.sum(losses * weights) / ops.sum(weights)


def boundary_weights(truth: keras.KerasTensor, extra: float) -> keras.KerasTensor:
    """Weigh the pixels on both sides of a nucleus's edge more.

    Ronneberger, Fischer and Brox (U-Net, MICCAI 2015) weigh the gaps between cells by a map
    computed beforehand; the same places are found here in the batch itself, after augmentation: a
    pixel counts as edge when its 3x3 neighbourhood holds nucleus and background. Both sides weigh
    the same, so that outlines come out neither wider nor tighter for it.

    Args:
        truth: the nucleus map, (N, H, W).
        extra: weight of such a pixel beyond the 1 of all pixels.

    Returns:
        (N, H, W), at least 1.
    """
    nucleus = ops.expand_dims(truth, -1)
    highest = ops.max_pool(nucleus, 3, strides=1, padding="same")
    lowest = -ops.max_pool(-nucleus, 3, strides=1, padding="same")
    return 1 + extra * (highest - lowest)[..., 0]


def touching_weights(truth: keras.KerasTensor, extra: float) -> keras.KerasTensor:
    """Weigh the pixels where nuclei end or meet more, for the distance map.

    Args:
        truth: nucleus and distance maps, (N, H, W, 2).
        extra: weight of such a pixel beyond the 1 of all pixels.

    Returns:
        (N, H, W), at least 1; in it `boundary_weights`, and nucleus pixels of little distance,
        which also run between nuclei that touch.
    """
    near = ops.cast(truth[..., 1] < NEAR_EDGE, truth.dtype) * truth[..., 0]
    return ops.maximum(boundary_weights(truth[..., 0], extra), 1 + extra * near)


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
    weights: keras.KerasTensor | None = None,
    *,
    alpha: float = 0.7,
    gamma: float = 0.75,
) -> keras.KerasTensor:
    """Focal Tversky loss (Abraham and Khan, 2019): misses cost `alpha`, false alarms the rest.

    A loss of regions, in which weights of pixels have no part.
    """
    del weights
    hit = ops.sum(truth * prediction)
    missed = ops.sum(truth * (1 - prediction))
    false_alarm = ops.sum((1 - truth) * prediction)
    tversky = (hit + 1) / (hit + alpha * missed + (1 - alpha) * false_alarm + 1)
    return ops.power(ops.maximum(1 - tversky, EPSILON), gamma)


def bce_dice_loss(
    truth: keras.KerasTensor,
    prediction: keras.KerasTensor,
    weights: keras.KerasTensor | None = None,
) -> keras.KerasTensor:
    """Binary cross-entropy, weighted where weights are given, plus soft Dice loss."""
    return binary_crossentropy(truth, prediction, weights) + soft_dice_loss(truth, prediction)


NUCLEUS_LOSSES: dict[str, Callable[..., keras.KerasTensor]] = {
    "bce_dice": bce_dice_loss,
    "focal_tversky": focal_tversky_loss,
}
"""Losses of the nucleus channel, by name."""


def make_loss(
    name: str, *, distance_weight: float, boundary_weight: float = 0.0
) -> Callable[..., keras.KerasTensor]:
    """Compose the loss of all channels.

    The distance map is learned by cross-entropy against its value in 0..1, as StarDist learns its
    object probability: its gradient does not vanish where the sigmoid is flat, as that of the
    squared error does.

    Args:
        name: a key of `NUCLEUS_LOSSES`.
        distance_weight: weight of the distance channel, where there is one.
        boundary_weight: `extra` of `boundary_weights` and `touching_weights`; 0 weighs all alike.

    Raises:
        KeyError: for an unknown name.
    """
    nucleus_loss = NUCLEUS_LOSSES[name]

    def loss(truth: keras.KerasTensor, prediction: keras.KerasTensor) -> keras.KerasTensor:
        truth = ops.cast(truth, prediction.dtype)
        weights = boundary_weights(truth[..., 0], boundary_weight) if boundary_weight else None
        total = nucleus_loss(truth[..., 0], prediction[..., 0], weights)
        if prediction.shape[-1] > 1:
            weights = touching_weights(truth, boundary_weight) if boundary_weight else None
            total = total + distance_weight * binary_crossentropy(
                truth[..., 1], prediction[..., 1], weights
            )
        return total

    return loss
