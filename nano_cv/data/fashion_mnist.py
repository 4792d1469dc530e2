"""Fashion-MNIST (Xiao et al. 2017): 70,000 grey pictures of clothes, 28x28 pixels, ten kinds."""

import gzip
import shutil
from functools import partial
from pathlib import Path

from nano_cv.data.fetching import DAMAGED, digest_of, fetch, lying_in
from nano_cv.data.folder import Folder
from nano_cv.data.pictures import SPLITS
from nano_cv.errors import UserError, one_line
from nano_cv.files import make_once
from nano_cv.progress import track

VALIDATION = 5_000  # the last ones of the official training pictures
CONTENT = (  # SHA-256 of what is in the four archives, in torchvision's order
    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
)


class FashionMnist(Folder):
    """One split of the set, for classification or generation.

    The official test pictures, and the official training pictures without the last 5,000, which are
    `val`. They are written as PNG files once, into `pictures/<split>/<class>/<number>.png`.

    Args:
        root: folder of the set; what is not there is fetched.
        split: `train`, `val` or `test`.
        task: `classification` or `generation`.
        source: folder that holds the four archives `*-ubyte.gz` already; None fetches them.

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
        pictures = make_once(Path(root) / "pictures", partial(make, root=Path(root), source=source))
        super().__init__(pictures, split, task)


def make(folder: Path, root: Path, source: str | Path | None) -> None:
    """Write the pictures of all splits into `folder`."""
    from torchvision.datasets import FashionMNIST

    raw = folder / "FashionMNIST" / "raw"  # where torchvision looks for the unpacked files
    raw.mkdir(parents=True)
    for (name, md5), content in zip(FashionMNIST.resources, CONTENT, strict=True):
        url = FashionMNIST.mirrors[0] + name
        place = root / "FashionMNIST" / "raw" / name
        archive = lying_in(source, url) if source else fetch(url, place, md5)
        unzip(archive, raw / archive.stem, content)
    train, test = FashionMNIST(folder, train=True), FashionMNIST(folder, train=False)
    classes = [name.replace("/", " or ") for name in FashionMNIST.classes]  # T-shirt/top
    for split in SPLITS:
        for name in classes:
            (folder / split / name).mkdir(parents=True)
    first = len(train) - VALIDATION
    rows = [("train" if number < first else "val", number, train) for number in range(len(train))]
    rows += [("test", number, test) for number in range(len(test))]
    for split, number, official in track(rows, len(rows), "Writing pictures once"):
        picture, label = official[number]
        picture.save(folder / split / classes[label] / f"{number:05d}.png")
    shutil.rmtree(folder / "FashionMNIST")


def unzip(archive: Path, file: Path, digest: str) -> None:
    """Unpack a `.gz`; its content has that SHA-256, whoever packed it (Debian has done it anew)."""
    try:
        with gzip.open(archive) as packed, file.open("wb") as output:
            shutil.copyfileobj(packed, output)
    except DAMAGED as error:
        raise UserError(f"{archive}: cannot be unpacked: {one_line(error)}") from error
    found = digest_of(file, digest)
    if found != digest:
        raise UserError(f"{archive}: its content has sha256 {found}, and {digest} is needed")
