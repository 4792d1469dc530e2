"""TensorFlow's flower photographs: 3,670 of daisies, dandelions, roses, sunflowers and tulips."""

from pathlib import Path

from nano_cv.data.fetching import obtain, unpack
from nano_cv.data.folder import Folder
from nano_cv.files import make_once

URL = "http://download.tensorflow.org/example_images/flower_photos.tgz"
SHA256 = "4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c"
BYTES = 228_813_984


class FlowerPhotos(Folder):
    """One split of the set, for classification or generation, by the hash of the file's name.

    Unpacked once into `pictures/flower_photos/`, with the photographers in its `LICENSE.txt`.

    Args:
        root: folder of the set; what is not there is fetched.
        split: `train`, `val` or `test`.
        task: `classification` or `generation`.
        source: folder that holds `flower_photos.tgz` already; None fetches it.

    Raises:
        UserError: not reachable, or another file than the one that is known.
    """

    hashes_folders = False  # as when the shipped weights were trained; no name occurs twice

    def __init__(
        self,
        root: str | Path,
        split: str,
        task: str = "classification",
        source: str | Path | None = None,
    ) -> None:
        def make(folder: Path) -> None:
            unpack(obtain(URL, SHA256, Path(root), source, BYTES), folder)

        super().__init__(make_once(Path(root) / "pictures", make) / "flower_photos", split, task)
