"""Oxford-IIIT Pets (Parkhi et al. 2012): 7,349 photographs of 37 breeds of cats and dogs."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from nano_cv.data import images, reading
from nano_cv.data.fetching import obtain, unpack
from nano_cv.data.folder_masks import FolderMasks
from nano_cv.data.pictures import SPLITS, Pictures
from nano_cv.data.splitting import stable_split
from nano_cv.files import make_once
from nano_cv.progress import track

BYTES = {"images.tar.gz": 791_918_971, "annotations.tar.gz": 19_173_078}
CLASSES = ["background", "pet"]
# Of the official trimaps: 1 is pet, 2 background, 3 "not classified", a seam around the pet.
CLASS_OF = np.array([images.IGNORE, 1, 0, images.IGNORE], np.uint8)


class Pets(Pictures):
    """One split of the set; targets are breeds, or masks of background and pet.

    The official test pictures, and the official training pictures without those that the hash of
    their names gives to `val`. Unpacked once into `pictures/`, in the layout of `FolderMasks` with
    a folder a breed.

    Args:
        root: folder of the set; what is not there is fetched.
        split: `train`, `val` or `test`.
        task: `classification`, `segmentation` or `generation`.
        source: folder that holds `images.tar.gz` and `annotations.tar.gz` already.

    Raises:
        UserError: not reachable, or other files than the official ones.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        task: str = "classification",
        source: str | Path | None = None,
    ) -> None:
        reading.serves("Oxford-IIIT Pets", task, "classification", "segmentation", "generation")
        made = make_once(Path(root) / "pictures", partial(make, root=Path(root), source=source))
        masks = FolderMasks(made, split)
        targets, classes = masks.targets, masks.classes
        if task != "segmentation":
            classes = sorted(folder.name for folder in (made / "images").iterdir())
            targets = [classes.index(name.split("/")[-2]) for name in masks.names]
        super().__init__(made, masks.files, targets, classes)


def make(folder: Path, root: Path, source: str | Path | None) -> None:
    """Unpack the pictures of all splits into `folder`, and write masks and lists."""
    from torchvision.datasets import OxfordIIITPet

    raw = folder / "oxford-iiit-pet"  # where torchvision looks for them
    for url, md5 in OxfordIIITPet._RESOURCES:
        size = BYTES[url.rpartition("/")[2]]
        unpack(obtain(url, md5, root / raw.name, source, size), raw)
    lists: dict[str, list[str]] = {split: [] for split in SPLITS}
    for given in ("trainval", "test"):
        official = OxfordIIITPet(folder, given)
        rows = zip(official._images, official._segs, official._labels, strict=True)
        for picture, trimap, label in track(rows, len(official), "Writing masks once"):
            split = "test" if given == "test" else stable_split(picture.name, ["val"])
            name = f"{official.classes[label]}/{picture.stem}"
            lists[split].append(name)
            for place in (folder / "images" / name, folder / "masks" / name):
                place.parent.mkdir(parents=True, exist_ok=True)
            picture.rename(folder / "images" / f"{name}.jpg")
            mask = Image.fromarray(CLASS_OF[images.load_mask(trimap)])
            mask.save(folder / "masks" / f"{name}.png")
    for split, names in lists.items():
        (folder / f"{split}.txt").write_text("\n".join(names))
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    shutil.rmtree(raw)
