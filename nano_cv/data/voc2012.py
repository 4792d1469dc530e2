"""PASCAL VOC 2012 itself (Everingham et al.): 17,125 photographs, 20 kinds of objects."""

from functools import partial
from pathlib import Path

from nano_cv.data import reading
from nano_cv.data.fetching import obtain, unpack
from nano_cv.data.splitting import stable_split
from nano_cv.data.voc import CLASSES, SETS, Voc
from nano_cv.files import make_once

PLACE = Path("VOCdevkit", "VOC2012")  # in the archive
BYTES = 1_999_639_040


class Voc2012(Voc):
    """One split of the set, for detection or segmentation.

    The labels of the official test pictures are not public, so the official `val` is `test` here,
    and `val` are those of the official `train` that the hash of their names chooses. The official
    lists stay beside ours as `official_train.txt` and `official_val.txt`.

    Args:
        root: folder of the set; what is not there is fetched.
        split: `train`, `val` or `test`.
        task: `detection` or `segmentation`.
        source: folder that holds `VOCtrainval_11-May-2012.tar` already; None fetches it.

    Raises:
        UserError: not reachable, or another file than the official one.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        task: str = "detection",
        source: str | Path | None = None,
    ) -> None:
        made = make_once(Path(root) / "pictures", partial(make, root=Path(root), source=source))
        super().__init__(made / PLACE, split, task)


def make(folder: Path, root: Path, source: str | Path | None) -> None:
    """Unpack the pictures into `folder`, and write the lists of the splits."""
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    official = DATASET_YEAR_DICT["2012"]
    unpack(obtain(official["url"], official["md5"], root, source, BYTES), folder)
    (folder / PLACE / "classes.txt").write_text("\n".join(CLASSES))
    for kind in SETS.values():
        lists = folder / PLACE / "ImageSets" / kind
        names = reading.lines(lists / "train.txt")
        for split in ("train", "val"):
            (lists / f"{split}.txt").rename(lists / f"official_{split}.txt")
        (lists / "test.txt").write_bytes((lists / "official_val.txt").read_bytes())
        for split in ("train", "val"):
            chosen = [name for name in names if stable_split(f"{name}.jpg", ["val"]) == split]
            (lists / f"{split}.txt").write_text("\n".join(chosen))
