"""Inputs of infer.py: the test split, any pictures, or classes to generate pictures of."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from nano_cv import building
from nano_cv.config.checks import task_name
from nano_cv.data import images
from nano_cv.data.pictures import Pictures, Resized, resize_splits
from nano_cv.data.preparing import PicturesError, prepared
from nano_cv.errors import UserError, listing, nearest
from nano_cv.evaluation.evaluate import Inputs, of_test
from nano_cv.evaluation.trained import check_labels
from nano_cv.metadata import Metadata

log = logging.getLogger(__name__)


def select_inputs(
    config: DictConfig, metadata: Metadata
) -> tuple[Inputs, str, PicturesError | None]:
    """Choose the pictures to predict by `input`, `labels` and `count`, or else the test split.

    Returns:
        The inputs, the hash of the data set (empty if they are not from it), and an error to raise
        after the prediction that names unusable pictures, or None.

    Raises:
        UserError: there are no pictures, none can be used, or the data set has other classes.
    """
    if config.input is not None:
        pictures, broken = open_readable(find_pictures(str(config.input)), config, metadata)
        return pictures, "", broken
    if metadata.task == "generation" and (config.labels is not None or config.count):
        return make_imagined(config, metadata), "", None
    options = (metadata.image_size, config.data.cache, metadata.fit)
    splits, data_hash = resize_splits(building.open_pictures(config), *options)
    advice = "for pictures of other classes use input=FOLDER"
    check_labels(config, metadata, splits, advice)
    return of_test(config, metadata, splits), data_hash, None


def open_readable(
    files: Sequence[Path], config: DictConfig, metadata: Metadata
) -> tuple[Resized, PicturesError | None]:
    """Open the usable pictures, and return an error that lists the others; raises it if none is."""
    files = [file.absolute() for file in files]
    root = Path(os.path.commonpath([file.parent for file in files]))
    options = metadata.image_size, config.data.cache, metadata.fit
    try:
        resized = Resized(Pictures(root, files), *options)
        if not config.data.cache:  # else all of them have been decoded
            for _ in prepared(range(len(files)), lambda at: len(resized.fetch([at])), "Checking"):
                pass
        return resized, None
    except PicturesError as error:
        good = [file for at, file in enumerate(files) if at not in error.broken]
        if len(files) == 1:
            raise UserError(error.broken[0]) from None
        if not good:
            raise
        log.warning("%s", error)
        return Resized(Pictures(root, good), *options), error


def make_imagined(config: DictConfig, metadata: Metadata) -> Inputs:
    """Inputs of a generator for `labels=[daisy,tobacco] count=16`; the labels take turns.

    Raises:
        UserError: the model does not know a class; names the nearest.
    """
    chosen = metadata.classes if config.labels in (None, []) else config.labels
    labels = [str(chosen)] if isinstance(chosen, str | int) else list(map(str, chosen))
    for label in labels:
        if label not in metadata.classes:
            raise UserError(
                f"labels={label}: no such class{nearest(str(label), metadata.classes)} "
                f"Allowed: {listing(metadata.classes)}"
            )
    count = config.count or len(labels)
    from nano_cv.data.imagined import Imagined

    indices = [metadata.classes.index(labels[number % len(labels)]) for number in range(count)]
    return Imagined(indices, metadata.classes, metadata.image_size, config.seed)


def check_options(config: DictConfig) -> None:
    """Refuse keys that are for another task, such as `tta`, which is for classifiers."""
    task = task_name(config)
    if task == "generation" and config.input is not None:
        raise UserError(
            f"input={config.input}: a generator takes no pictures; use labels=[...] count=16"
        )
    for key, *able in (
        ("labels", "generation"),
        ("count", "generation"),
        ("gradcam", "classification"),
        ("tta", "classification"),
        # For classification only with several labels, which `evaluate` checks.
        ("confidence", "detection", "classification"),
    ):
        if config[key] not in (None, False) and task not in able:
            value, needed = str(config[key]).lower(), " and ".join(able)
            raise UserError(
                f"{key}={value}: is for {needed}, and model={config.model.name} does {task}"
            )


def find_pictures(given: str, key: str = "input") -> list[Path]:
    """Find pictures by a file name, a folder (with all folders below) or a pattern.

    Raises a `UserError` if there are none, which names the setting by its `key`.
    """
    if not given:
        raise UserError(f"{key}=: a picture, a folder or a pattern is needed")
    path = Path(given).expanduser()
    if path.is_dir():
        images.warn_of_unread_files(path)
        files = list(images.find(path))
        if not files:
            raise UserError(
                f"{key}={given}: no pictures in this folder; endings known: "
                + " ".join(images.EXTENSIONS)
            )
        return files
    if path.exists():
        return [path]
    if Path(given).parts.count("**") > 1:
        raise UserError(f"{key}={given}: a pattern may hold ** once")
    files = sorted(file for file in images.matching(str(path)) if file.is_file())
    if not files:
        brackets = "; in a pattern, type [[] for [" if "[" in given else ""
        raise UserError(
            f"{key}={given}: no such file or folder, and no file fits it as a pattern{brackets}"
        )
    return files
