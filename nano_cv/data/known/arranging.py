"""Unpacks the archives of public data sets into layouts that `formats` reads, a function per set.

Each function is called once, with the fetched files by name and an empty folder to fill.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from nano_cv.data import images
from nano_cv.data.formats import reading
from nano_cv.data.formats.folder_masks import read_folder_masks
from nano_cv.data.formats.splitting import stable_split
from nano_cv.data.formats.voc import CLASSES
from nano_cv.data.known.fetching import gunzip, unpack
from nano_cv.data.masks import load_mask
from nano_cv.data.pictures import SPLITS, Pictures
from nano_cv.data.progress import track
from nano_cv.data.targets import INDICES

Files = Mapping[str, Path]
NAMES = yaml.safe_load((Path(__file__).parent / "names.yaml").read_text())  # of classes, by label
VALIDATION = 5_000  # images of Fashion-MNIST's training part


def _place(picture: Path, folder: Path, split: str, label: str) -> None:
    """Move an image to `<split>/<label>/`, where `read_folder` finds it."""
    (folder / split / label).mkdir(parents=True, exist_ok=True)
    picture.rename(folder / split / label / picture.name)


def flower_photos(files: Files, folder: Path) -> None:
    """Arrange five folders, one per class, and keep the `LICENSE.txt` with the photographers.

    The names alone decide the splits, as when the shipped weights were trained.
    """
    unpack(files["flower_photos.tgz"], folder)
    for picture in sorted((folder / "flower_photos").glob("*/*.jpg")):
        _place(picture, folder, stable_split(picture.name), picture.parent.name)
    for licence in (folder / "flower_photos").glob("*.txt"):
        licence.rename(folder / licence.name)
    shutil.rmtree(folder / "flower_photos")


def flowers102(files: Files, folder: Path) -> None:
    """Arrange the official splits, with the image numbers of `setid.mat` and `imagelabels.mat`."""
    from scipy.io import loadmat

    unpack(files["102flowers.tgz"], folder)
    labels = loadmat(files["imagelabels.mat"])["labels"].ravel()
    numbers = loadmat(files["setid.mat"])
    for split, key in zip(SPLITS, ("trnid", "valid", "tstid"), strict=True):
        for number in numbers[key].ravel():
            picture = folder / "jpg" / f"image_{number:05d}.jpg"
            _place(picture, folder, split, NAMES["flowers102"][labels[number - 1] - 1])
    shutil.rmtree(folder / "jpg")


def pets(files: Files, folder: Path) -> None:
    """Arrange images by breed, masks of background and pet, and lists, for `read_folder_masks`.

    In the official trimaps 1 is pet, 2 is background, and 3 a seam around the pet of unknown class.
    """
    raw = folder / "raw"
    for name in ("images.tar.gz", "annotations.tar.gz"):
        unpack(files[name], raw)
    classes = np.array([images.IGNORE, 1, 0, images.IGNORE], np.uint8)
    lists: dict[str, list[str]] = {split: [] for split in SPLITS}
    for official in ("trainval", "test"):
        lines = reading.read_lines(raw / "annotations" / f"{official}.txt")
        for line in track(lines, len(lines), "Writing masks once"):
            stem = line.split()[0]
            split = "test" if official == "test" else stable_split(f"{stem}.jpg", ["val"])
            breed = stem.rpartition("_")[0].replace("_", " ").title()
            lists[split].append(f"{breed}/{stem}")
            for kind in ("images", "masks"):
                (folder / kind / breed).mkdir(parents=True, exist_ok=True)
            (raw / "images" / f"{stem}.jpg").rename(folder / "images" / breed / f"{stem}.jpg")
            trimap = load_mask(raw / "annotations" / "trimaps" / f"{stem}.png")
            Image.fromarray(classes[trimap]).save(folder / "masks" / breed / f"{stem}.png")
    for split, names in lists.items():
        (folder / f"{split}.txt").write_text("\n".join(names))
    (folder / "classes.txt").write_text("background\npet")
    shutil.rmtree(raw)


def read_pets(root: Path, task: str) -> dict[str, Pictures]:
    """Read the set with masks, or for classification and generation with breeds as classes."""
    reading.check_task("Oxford-IIIT Pets", task, "classification", "segmentation", "generation")
    splits = read_folder_masks(root, "segmentation")
    if task == "segmentation":
        return splits
    breeds = sorted(folder.name for folder in (root / "images").iterdir())
    for pictures in splits.values():
        pictures.targets = [breeds.index(name.split("/")[-2]) for name in pictures.names]
        pictures.classes, pictures.meaning = breeds, INDICES
    return splits


def voc2012(files: Files, folder: Path) -> None:
    """Arrange the lists of VOC 2012: `val` becomes `test`, as the test labels are not public.

    The hash of the names takes `val` out of the official `train`.
    """
    unpack(files["VOCtrainval_11-May-2012.tar"], folder)
    root = folder / "VOCdevkit" / "VOC2012"
    (root / "classes.txt").write_text("\n".join(CLASSES))
    for kind in ("Main", "Segmentation"):
        lists = root / "ImageSets" / kind
        (lists / "val.txt").rename(lists / "test.txt")
        names = reading.read_lines(lists / "train.txt")
        for split in ("train", "val"):
            ours = [name for name in names if stable_split(f"{name}.jpg", ["val"]) == split]
            (lists / f"{split}.txt").write_text("\n".join(ours))


def fashion_mnist(files: Files, folder: Path) -> None:
    """Write the images as PNG files; the last 5,000 official training images become `val`.

    The files have a header of 16 bytes before the pixels, and of 8 bytes before the labels.
    """
    for part, official in (("train", "train"), ("t10k", "test")):
        images_of = gunzip(files[f"{part}-images-idx3-ubyte.gz"])
        labels_of = gunzip(files[f"{part}-labels-idx1-ubyte.gz"])
        pixels = np.frombuffer(images_of, np.uint8, offset=16).reshape(-1, 28, 28)
        labels = np.frombuffer(labels_of, np.uint8, offset=8)
        first_of_val = len(pixels) - VALIDATION if official == "train" else len(pixels)
        rows = track(list(enumerate(pixels)), len(pixels), "Writing pictures once")
        for number, picture in rows:
            split = official if number < first_of_val else "val"
            place = folder / split / NAMES["fashion_mnist"][labels[number]]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(place / f"{number:05d}.png")
