"""Finds out whether training pictures may be mirrored, or whether that would change their class."""

import logging
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, layer_norm, one_hot

from nano_cv.data.pictures import Resized, evenly
from nano_cv.data.preparing import prepared
from nano_cv.data.targets import are_tags

SIDE = 16  # pixels of the small pictures
MOST = 500  # pictures of a split that are looked at
RIDGE = 30.0  # strength of the regularisation
log = logging.getLogger(__name__)


def may_mirror(splits: Mapping[str, Resized]) -> bool:
    """Whether mirrored pictures keep their class, unlike arrows, digits and letters.

    A ridge regression learns the classes from small grey training pictures. Mirroring changes the
    class if it recognises at least 30 % fewer validation pictures once they are mirrored, and fewer
    by more than three standard errors (McNemar 1947), which takes ten pictures. Sets with boxes,
    masks or several labels, and shards that are not cached, are not looked at.
    """
    train, val = splits["train"], splits["val"]
    single = train.fitted.unit == "pictures" and not are_tags(train.pictures.targets)
    if not single or train.in_shards or not len(val):
        return True
    (shown, labels), (others, truth) = _small(train), _small(val)
    wanted = one_hot(labels, len(train.pictures.classes)).double()
    pixels, usual = _rows(shown), wanted.mean(dim=0)
    square = pixels.T @ pixels + RIDGE * torch.eye(SIDE**2)
    weights = torch.linalg.solve(square, pixels.T @ (wanted - usual))
    right, mirrored = (
        (_rows(images) @ weights + usual).argmax(dim=1) == truth
        for images in (others, others.flip(2))
    )
    lost, gained = int((right & ~mirrored).sum()), int((mirrored & ~right).sum())
    changes = lost - gained > 3 * (lost + gained) ** 0.5 and mirrored.sum() <= 0.7 * right.sum()
    if changes:
        log.info(
            "mirrored validation pictures look like other classes, so no training picture is "
            "mirrored; to mirror half of them: data.augment.flip=0.5"
        )
    return not changes


def _small(split: Resized) -> tuple[Tensor, Tensor]:
    """Grey pictures `[N, SIDE, SIDE]` of a split, evenly chosen, and their labels `[N]`."""
    chosen = evenly(len(split), MOST)
    fetched = prepared(chosen, lambda index: split.fetch([index])[0], "Looking at pictures")
    small = [adaptive_avg_pool2d(torch.from_numpy(image).double(), SIDE) for image in fetched]
    return torch.stack(small).mean(dim=1), torch.from_numpy(np.asarray(split.targets(chosen)))


def _rows(images: Tensor) -> Tensor:
    """Pixels `[N, SIDE * SIDE]`, those of each picture with mean 0 and deviation 1."""
    return layer_norm(images.flatten(1), [SIDE**2])
