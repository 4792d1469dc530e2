"""Oxford 102 Flowers (Nilsback and Zisserman 2008): 8,189 photographs of British flowers."""

import shutil
from functools import partial
from pathlib import Path

from nano_cv.data.fetching import obtain, unpack
from nano_cv.data.folder import Folder
from nano_cv.data.pictures import SPLITS
from nano_cv.files import make_once

BYTES = {"102flowers.tgz": 344_862_509, "imagelabels.mat": 502, "setid.mat": 14_989}
NAMES = [  # by label; torchvision has them too, but not in its last version for Intel Macs
    "pink primrose", "hard-leaved pocket orchid", "canterbury bells", "sweet pea",
    "english marigold", "tiger lily", "moon orchid", "bird of paradise", "monkshood",
    "globe thistle", "snapdragon", "colt's foot", "king protea", "spear thistle", "yellow iris",
    "globe-flower", "purple coneflower", "peruvian lily", "balloon flower",
    "giant white arum lily", "fire lily", "pincushion flower", "fritillary", "red ginger",
    "grape hyacinth", "corn poppy", "prince of wales feathers", "stemless gentian", "artichoke",
    "sweet william", "carnation", "garden phlox", "love in the mist", "mexican aster",
    "alpine sea holly", "ruby-lipped cattleya", "cape flower", "great masterwort", "siam tulip",
    "lenten rose", "barbeton daisy", "daffodil", "sword lily", "poinsettia", "bolero deep blue",
    "wallflower", "marigold", "buttercup", "oxeye daisy", "common dandelion", "petunia",
    "wild pansy", "primula", "sunflower", "pelargonium", "bishop of llandaff", "gaura",
    "geranium", "orange dahlia", "pink-yellow dahlia?", "cautleya spicata", "japanese anemone",
    "black-eyed susan", "silverbush", "californian poppy", "osteospermum", "spring crocus",
    "bearded iris", "windflower", "tree poppy", "gazania", "azalea", "water lily", "rose",
    "thorn apple", "morning glory", "passion flower", "lotus", "toad lily", "anthurium",
    "frangipani", "clematis", "hibiscus", "columbine", "desert-rose", "tree mallow", "magnolia",
    "cyclamen", "watercress", "canna lily", "hippeastrum", "bee balm", "ball moss", "foxglove",
    "bougainvillea", "camellia", "mallow", "mexican petunia", "bromelia", "blanket flower",
    "trumpet creeper", "blackberry lily",
]  # fmt: skip


class Flowers102(Folder):
    """One of the official splits: 1,020 to train, 1,020 to validate, 6,149 to test.

    Unpacked once into `pictures/<split>/<class>/`; the classes are sorted by name.

    Args:
        root: folder of the set; what is not there is fetched.
        split: `train`, `val` or `test`.
        task: `classification` or `generation`.
        source: folder that holds `102flowers.tgz`, `imagelabels.mat` and `setid.mat` already.

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
    """Unpack the pictures of all splits into `folder`."""
    from torchvision.datasets import Flowers102 as Official

    raw = folder / "flowers-102"  # where torchvision looks for them
    for name, md5 in Official._file_dict.values():
        url = Official._download_url_prefix + name
        file = obtain(url, md5, root / raw.name, source, BYTES[name])
        if file.suffix == ".tgz":
            unpack(file, raw)
        else:
            shutil.copy(file, raw)
    for split in SPLITS:
        official = Official(folder, split)
        for file, label in zip(official._image_files, official._labels, strict=True):
            place = folder / split / NAMES[label]
            place.mkdir(parents=True, exist_ok=True)
            file.rename(place / file.name)
    shutil.rmtree(raw)
