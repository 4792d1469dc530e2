"""Finds out whether training pictures may be mirrored, or whether that would change their class."""

import logging
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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
    wanted = np.eye(len(train.pictures.classes))[labels]
    pixels, usual = _standard(shown), wanted.mean(axis=0)
    square = pixels.T @ pixels + RIDGE * np.eye(SIDE**2)
    weights = np.linalg.solve(square, pixels.T @ (wanted - usual))
    right, mirrored = (
        (_standard(images) @ weights + usual).argmax(axis=1) == truth
        for images in (others, others[:, :, ::-1])
    )
    lost, gained = (right & ~mirrored).sum(), (mirrored & ~right).sum()
    changes = lost - gained > 3 * np.sqrt(lost + gained) and mirrored.sum() <= 0.7 * right.sum()
    if changes:
        log.info(
            "mirrored validation pictures look like other classes, so no training picture is "
            "mirrored; to mirror half of them: data.augment.flip=0.5"
        )
    return not changes


def _small(split: Resized) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Grey pictures `[N, SIDE, SIDE]` of a split, evenly chosen, and their labels `[N]`."""
    chosen = evenly(len(split), MOST)
    fetched = prepared(chosen, lambda index: split.fetch([index])[0], "Looking at pictures")
    pictures = (picture.transpose(1, 2, 0) for picture in fetched)
    grey = (Image.fromarray(np.ascontiguousarray(picture)).convert("L") for picture in pictures)
    small = [np.asarray(picture.resize((SIDE, SIDE)), np.float64) for picture in grey]
    return np.stack(small), np.asarray(split.targets(chosen))


def _standard(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of pixels `[N, SIDE * SIDE]`, each of mean 0 and deviation 1."""
    rows = images.reshape(len(images), -1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    return rows / (rows.std(axis=1, keepdims=True) + 1e-6)
