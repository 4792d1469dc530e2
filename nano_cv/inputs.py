"""Which pictures infer.py predicts: the test split, or any file, folder or pattern."""

import os
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from nano_cv.contract import Contract
from nano_cv.data import images
from nano_cv.data.pictures import Pictures, Resized, open_splits
from nano_cv.errors import UserError, listing


def select(config: DictConfig, contract: Contract) -> tuple[Resized, str]:
    """The pictures to predict, at the size of the model, and the hash of the set they are from.

    Raises:
        UserError: no pictures there, unreadable ones, or a data set of other classes.
    """
    size, cache = contract.image_size, config.data.cache
    if config.input is not None:
        files = [file.absolute() for file in find(str(config.input))]
        root = Path(os.path.commonpath([file.parent for file in files]))
        return Resized(Pictures(root, files), size, cache), ""
    dataset = instantiate(config.data.dataset, _convert_="all")
    splits, data_hash = open_splits(dataset, config.data.root, size, cache)
    classes = splits["test"].pictures.classes
    if classes != contract.classes:
        raise UserError(
            f"the weights know {listing(contract.classes)}, and data={config.data.name} has "
            f"{listing(classes)}; for pictures of other classes use input=FOLDER"
        )
    return splits["test"], data_hash


def find(given: str) -> list[Path]:
    """The pictures that `given` means: a file, a folder with all below it, or a pattern."""
    path = Path(given).expanduser()
    if path.is_dir():
        files = images.find(path)
        if not files:
            raise UserError(
                f"input={given}: no pictures in this folder; endings known: "
                + " ".join(images.EXTENSIONS)
            )
        return files
    if path.exists():
        return [path]
    anchor = Path(path.anchor)
    pattern = str(path.relative_to(anchor)) if path.anchor else str(path)
    files = sorted(file for file in anchor.glob(pattern) if file.is_file())
    if not files:
        raise UserError(f"input={given}: no such file or folder, and no file fits it as a pattern")
    return files
