"""Report of generation: classes, likeness to real pictures, variety, and copies.

Shapes: N pictures, F features, S side of a picture in pixels.
"""

import logging
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nano_cv.data.images import encode_png
from nano_cv.data.imagined import Imagined
from nano_cv.data.pictures import Resized, evenly
from nano_cv.evaluation import drawing
from nano_cv.evaluation.drawing import Drawing
from nano_cv.evaluation.reports import Predictions, Report
from nano_cv.evaluation.tables import distinct
from nano_cv.files import inside, write_whole

log = logging.getLogger(__name__)
NEIGHBOURS = 3  # a picture covers features as far as its third neighbour
MAX_COMPARED = 5000  # real pictures that the judge sees; all distances would not fit into memory
CHUNK = 1000  # training pictures in memory at once
SMALL = 32  # pixels; the side to which pictures are reduced when the nearest is searched
Pixels = NDArray[np.uint8]


class GenerationReport(Report):
    """Report of `IMAGES` uint8 `[N, 3, S, S]`; targets are the requested classes."""

    gate = "accuracy"
    most = 64
    limits: ClassVar = {"levels": 2.0}
    unit: ClassVar = "generated pictures"

    @cached_property
    def nearest(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The nearest training picture of each generated picture, see `find_nearest`."""
        return find_nearest(self.predictions["IMAGES"], self._real["train"])

    @property
    def _real(self) -> Any:
        """The splits of real pictures by name; empty if no comparison was asked for."""
        return (isinstance(self.pictures, Imagined) and self.pictures.real) or {}

    def metrics(self) -> dict[str, float]:
        """Compare with real pictures, if there are any.

        `accuracy`: the share of pictures that the judge, a classifier trained on real pictures,
        assigns to the requested class; `accuracy/real`: its accuracy on the test split. `fid`
        (Heusel et al. 2017), `precision` and `recall` (Kynkaanniemi et al. 2019) are computed from
        the features of the judge, so they cannot be compared with published figures. `nearest`: the
        median distance to the nearest training picture, divided by that of test pictures. `copies`:
        the share of pictures that are nearer than half of the smallest distance of a test picture.
        """
        if not self._real:
            return {}
        chosen = {split: evenly(len(part), MAX_COMPARED) for split, part in self._real.items()}
        train, test = (self._real[split].fetch(chosen[split]) for split in ("train", "test"))
        ours, _ = self.nearest
        theirs, _ = find_nearest(test, self._real["train"])
        figures = {
            "nearest": float(np.median(ours) / np.median(theirs)),
            "copies": float((ours < theirs.min() / 2).mean()),
        }
        truth = [self._real["test"].pictures.targets[index] for index in chosen["test"]]
        return self._judge(train, test, np.array(truth)) | figures

    def _judge(self, train: Pixels, test: Pixels, truth: NDArray[Any]) -> dict[str, float]:
        """The figures that need a judge; without a judge, a warning and no figures."""
        path = getattr(self.pictures, "judge", None)
        if path is None or not path.exists():
            log.warning(
                "%s: no judge there, so accuracy, fid, precision and recall are left out; to train "
                "one: python train.py +model=lenet64 with the same data",
                path,
            )
            return {}
        from nano_cv.evaluation.judge import Judge

        judge = Judge(path)
        labels, made = judge.classify(self.predictions["IMAGES"])
        _, shown = judge.classify(train)
        known, _ = judge.classify(test)
        targets = np.asarray(self.pictures.targets)
        right = labels == targets
        fid = {"fid": frechet(made, shown)} if min(len(made), len(shown)) > 1 else {}
        if not fid:
            log.warning("fid is left out: it needs two pictures, and test or train has one")
        by_class = {
            f"accuracy/{name}": float(right[targets == index].mean())
            for index, name in enumerate(distinct(self.classes, ["real"]))
            if (targets == index).any()
        }
        return {
            "accuracy": float(right.mean()),
            **by_class,
            "accuracy/real": float((known == truth).mean()),
            **fid,
            "precision": covered(made, shown),
            "recall": covered(shown, made),
        }

    def rows(self) -> list[dict[str, Any]]:
        """A row per picture: file and requested class."""
        pairs = zip(self.pictures.names, self.pictures.targets, strict=True)
        return [{"file": f"pictures/{name}", "label": self.classes[k]} for name, k in pairs]

    def drawings(self) -> dict[str, Callable[[], Drawing]]:
        """Samples of all classes, and samples beside their nearest training pictures."""
        targets = np.asarray(self.pictures.targets)
        # The classes take turns, because the first ones could fill the whole grid.
        earlier = [int((targets[:index] == label).sum()) for index, label in enumerate(targets)]
        order = np.argsort(earlier, kind="stable")
        drawings: dict[str, Callable[[], Drawing]] = {}
        drawings["samples"] = partial(self._draw_samples, order[: self.most])
        if self._real:
            pairs = partial(self._draw_beside_nearest, order[: self.most // 4])
            drawings["nearest_training_pictures"] = pairs
        return drawings

    def _draw_samples(self, chosen: NDArray[np.int64]) -> Drawing:
        labels = len(set(self.pictures.targets))
        columns = labels * (8 // labels) if labels <= 8 else 8
        shown = [drawing.enlarge(self.predictions["IMAGES"][index], columns) for index in chosen]
        captions = [self.drawn[self.pictures.targets[index]] for index in chosen]
        return drawing.lay_out(shown, columns, captions, title=self.title)

    def _draw_beside_nearest(self, chosen: NDArray[np.int64]) -> Drawing:
        nearest, train = self.nearest[1][chosen].tolist(), self._real["train"]
        pairs = np.concatenate([self.predictions["IMAGES"][chosen], train.fetch(nearest)], axis=3)
        shown = [drawing.enlarge(pair, 4) for pair in pairs]
        captions = [self.drawn[self.pictures.targets[index]] for index in chosen]
        names = [train.pictures.names[index] for index in nearest]
        title = f"{self.title}\nleft: generated, right: the nearest training picture"
        return drawing.lay_out(shown, 4, captions, names, title)

    def write_files(self, folder: Path) -> None:
        """`pictures/<class>_<number>.png`."""
        for name, image in zip(self.pictures.names, self.predictions["IMAGES"], strict=True):
            write_whole(inside(folder / "pictures", name), encode_png(image.transpose(1, 2, 0)))

    @staticmethod
    def compare(expected: Predictions, actual: Predictions) -> dict[str, NDArray[Any]]:
        """The largest difference of a pixel, in levels of 255."""
        apart = np.abs(expected["IMAGES"].astype(np.int16) - actual["IMAGES"])
        return {"levels": apart.reshape(len(apart), -1).max(axis=1)}


def frechet(own: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Frechet distance between the normal distributions of two sets of features `[N, F]`."""
    first, second = (features.astype(np.float64) for features in (own, other))
    covariances = [np.cov(features, rowvar=False) for features in (first, second)]
    # The trace of the matrix square root is the sum of the square roots of the eigenvalues.
    roots = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).real.clip(min=0)).sum()
    apart = ((first.mean(axis=0) - second.mean(axis=0)) ** 2).sum()
    return float(apart + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * roots)


def covered(features: NDArray[np.float32], manifold: NDArray[np.float32]) -> float:
    """The share of `features` that is as near to a member of `manifold` as its third neighbour."""
    features, manifold = features.astype(np.float64), manifold.astype(np.float64)
    among = _distances(manifold, manifold)
    third = min(NEIGHBOURS, len(manifold) - 1)  # itself is the nearest
    reach = np.partition(among, third, axis=1)[:, third]
    return float((_distances(features, manifold) <= reach).any(axis=1).mean())


def _distances(own: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float32]:
    """Euclidean, `[N, M]`."""
    squares = (own**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2 * own @ other.T
    return np.asarray(np.sqrt(squares.clip(min=0)))


def _small(images: Pixels) -> NDArray[np.float32]:
    """Reduce pictures to float32 `[N, 3, 32, 32]` in 0..1."""
    upright = (np.ascontiguousarray(image.transpose(1, 2, 0)) for image in images)
    resized = [np.asarray(Image.fromarray(image).resize((SMALL, SMALL))) for image in upright]
    return np.stack(resized).transpose(0, 3, 1, 2).astype(np.float32) / 255


def _variants(images: Pixels) -> NDArray[np.float32]:
    """Small pictures in all eight ways of mirroring and quarter turns, `[8 N, F]`."""
    small = _small(images)
    turned = [np.rot90(small, count, axes=(2, 3)) for count in range(4)]
    return np.concatenate([*turned, *(pictures[..., ::-1] for pictures in turned)]).reshape(
        8 * len(small), -1
    )


def find_nearest(images: Pixels, split: Resized) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Distances `[N]` and indices `[N]` of the nearest pictures of a split, turned in any way."""
    small = _small(images).reshape(len(images), -1)
    nearest, which = np.full(len(images), np.inf, np.float32), np.zeros(len(images), np.int64)
    for start in range(0, len(split), CHUNK):
        known = _variants(split.fetch(range(start, min(start + CHUNK, len(split)))))
        distances = _distances(small, known).reshape(len(images), 8, -1).min(axis=1)
        nearer = distances.min(axis=1) < nearest
        which[nearer] = start + distances.argmin(axis=1)[nearer]
        nearest = np.minimum(nearest, distances.min(axis=1))
    return nearest, which
