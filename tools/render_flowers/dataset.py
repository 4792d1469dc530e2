"""The whole set: its names, its splits, its data card."""

from pathlib import Path

import numpy as np

from tools.render_flowers.plant import SET_SEED
from tools.render_flowers.species import SPECIES

SPLITS = {"train": 140, "val": 30, "test": 40}  # plants of each species

CARD = """# flowers

Potted rosette plants seen from above, with every leaf outlined. **All pictures are rendered: there
is no photograph in this set.** It follows the file layout of the CVPPP leaf segmentation
challenge, whose pictures may not be passed on, and contains none of them.

{species} species ({names}), {each} plants of each, {total} in all.

| file | content |
| --- | --- |
| `<species>/plantNNN_rgb.jpg` | the picture, about 400 x 424 pixels |
| `<species>/plantNNN_label.png` | leaf instances: 0 background, 1..n visible leaves |
| `<species>/plantNNN_centers.png` | one white pixel on each visible leaf |
| `<species>/plantNNN_mask.png` | 0 background, 1 leaf, 2 blossom with its stalk |
| `train.txt`, `val.txt`, `test.txt` | one `<species>/plantNNN` a line |

Splits, drawn at random within each species: {splits}.

The species differ in leaf and blossom; pot, soil, bench, light and camera are drawn without regard
to the species. One plant in four has no blossom, and seedlings look much alike.

Reproduce it, pixel for pixel, with `python -m tools.render_flowers` (seed {seed}).

Licence: Apache-2.0, like the program that renders it.
"""


def species_names(name: str) -> list[str]:
    """All plants of one species."""
    return [f"{name}/plant{number:03d}" for number in range(1, sum(SPLITS.values()) + 1)]


def all_names() -> list[str]:
    """All plants of the set, in order."""
    return [plant for species in SPECIES for plant in species_names(species.name)]


def write_lists(folder: Path) -> None:
    """Write the three lists and the data card."""
    lists: dict[str, list[str]] = {split: [] for split in SPLITS}
    for index, species in enumerate(SPECIES):
        # A seed of two numbers equals one with a third that is 0, and no plant has number 0.
        order = np.random.default_rng([SET_SEED, index]).permutation(species_names(species.name))
        start = 0
        for split, count in SPLITS.items():
            lists[split] += [str(name) for name in order[start : start + count]]
            start += count
    for split, names in lists.items():
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in sorted(names)))
    card = CARD.format(
        species=len(SPECIES),
        names=", ".join(species.name for species in SPECIES),
        each=sum(SPLITS.values()),
        total=len(all_names()),
        splits=", ".join(f"{len(names)} {split}" for split, names in lists.items()),
        seed=SET_SEED,
    )
    (folder / "README.md").write_text(card)
