"""Public data sets by name: where their files are, and how they become a layout that we read.

Goes in: the name of a set in `SETS`. Comes out: its `Pictures`, fetched and arranged once.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from nano_cv.data.formats.folder import read_folder
from nano_cv.data.formats.voc import read_voc
from nano_cv.data.known import arranging
from nano_cv.data.known.fetching import gunzip, lying_in, obtain
from nano_cv.data.pictures import Pictures
from nano_cv.errors import UserError, nearest
from nano_cv.files import make_once


class Archive(NamedTuple):
    """A file of a set.

    Attributes:
        url: where it is fetched.
        digest: its MD5 or SHA-256.
        size: in bytes, for the message to those who have to bring it by hand.
        content: SHA-256 of what a `.gz` unpacks to. A file that was brought by hand may then have
            been packed anew, as Debian does.
    """

    url: str
    digest: str
    size: int | None = None
    content: str = ""

    def obtain(self, folder: Path, source: str | Path | None) -> Path:
        """Fetch it to `folder`, or find it in `source`; checked."""
        if source is None or not self.content:
            return obtain(self.url, self.digest, folder, source, self.size)
        file = lying_in(source, self.url)
        found = hashlib.sha256(gunzip(file)).hexdigest()
        if found != self.content:
            raise UserError(f"{file}: its content has sha256 {found}; {self.content} is needed")
        return file


class KnownSet(NamedTuple):
    """A public data set.

    Attributes:
        archives: what is fetched.
        arrange: makes `layout` of the fetched files in an empty folder; called once.
        layout: reads the arranged folder.
        place: of the layout in that folder.
        folder: below the root of the set, of what is arranged.
    """

    archives: tuple[Archive, ...]
    arrange: Callable[[Mapping[str, Path], Path], None]
    layout: Callable[[Path, str], dict[str, Pictures]] = read_folder
    place: str = ""
    folder: str = "pictures"


OXFORD = "https://www.robots.ox.ac.uk/~vgg/data"
ZALANDO = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
SETS = {
    # 3,670 photographs of daisies, dandelions, roses, sunflowers and tulips, by TensorFlow.
    "flower_photos": KnownSet(
        (
            Archive(
                "http://download.tensorflow.org/example_images/flower_photos.tgz",
                "4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c",
                228_813_984,
            ),
        ),
        arranging.flower_photos,
        folder="splits",  # earlier versions left all classes in `pictures`, without splits
    ),
    # Nilsback and Zisserman 2008: 8,189 photographs of British flowers in the official splits.
    "flowers102": KnownSet(
        (
            Archive(
                f"{OXFORD}/flowers/102/102flowers.tgz",
                "52808999861908f626f3c1f4e79d11fa",
                344_862_509,
            ),
            Archive(
                f"{OXFORD}/flowers/102/imagelabels.mat", "e0620be6f572b9609742df49c70aed4d", 502
            ),
            Archive(f"{OXFORD}/flowers/102/setid.mat", "a5357ecc9cb78c4bef273ce3793fc85c", 14_989),
        ),
        arranging.flowers102,
    ),
    # Parkhi et al. 2012, Oxford-IIIT Pets: 7,349 photographs of 37 breeds of cats and dogs.
    "pets": KnownSet(
        (
            Archive(
                f"{OXFORD}/pets/data/images.tar.gz",
                "5c4f3ee8e5d25df40f4fd59a7f44e54c",
                791_918_971,
            ),
            Archive(
                f"{OXFORD}/pets/data/annotations.tar.gz",
                "95a8c909bbe2e81eed6a22bccdf3f68f",
                19_173_078,
            ),
        ),
        arranging.pets,
        arranging.read_pets,
    ),
    # Everingham et al., PASCAL VOC 2012: 17,125 photographs, 20 kinds of objects.
    "voc2012": KnownSet(
        (
            Archive(
                "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
                "6cd6e144f989b92b3379bac3b3de84fd",
                1_999_639_040,
            ),
        ),
        arranging.voc2012,
        read_voc,
        "VOCdevkit/VOC2012",
    ),
    # Xiao et al. 2017: 70,000 grey pictures of clothes, 28x28 pixels, ten kinds.
    "fashion_mnist": KnownSet(
        (
            Archive(
                f"{ZALANDO}/train-images-idx3-ubyte.gz",
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                26_421_880,
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            ),
            Archive(
                f"{ZALANDO}/train-labels-idx1-ubyte.gz",
                "25c81989df183df01b3e8a0aad5dffbe",
                29_515,
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            ),
            Archive(
                f"{ZALANDO}/t10k-images-idx3-ubyte.gz",
                "bef4ecab320f06d8554ea6380940ec79",
                4_422_102,
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            ),
            Archive(
                f"{ZALANDO}/t10k-labels-idx1-ubyte.gz",
                "bb300cfdad3c16e7a12a480ee83cd310",
                5_148,
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
        ),
        arranging.fashion_mnist,
    ),
}


def is_fetched(root: Path, name: str) -> bool:
    """Whether the public data set `name` lies in `root`, so that `open_known` fetches nothing."""
    return name in SETS and (root / SETS[name].folder).is_dir()


def open_known(
    root: Path, task: str, *, name: str, source: str | Path | None = None
) -> dict[str, Pictures]:
    """Read a public data set, after fetching and arranging what is not there yet.

    Args:
        root: folder of the set.
        task: one that the set has targets for.
        name: of the set, a key of `SETS`.
        source: folder that holds the archives already; None fetches them.

    Raises:
        UserError: not reachable, or other files than the official ones.
    """
    if name not in SETS:
        raise UserError(f"data.dataset.name={name}: no such set{nearest(name, SETS)}")
    known = SETS[name]

    def make(folder: Path) -> None:
        files = [archive.obtain(root, source) for archive in known.archives]
        known.arrange({file.name: file for file in files}, folder)

    return known.layout(make_once(root / known.folder, make) / known.place, task)
