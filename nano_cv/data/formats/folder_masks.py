"""Reader of images and masks in two folders: `images/a.jpg` and `masks/a.png`; see `find_folders`.

A mask has the size of its image, and at each pixel a class index (255 where the class is unknown)
or the colour of a class.
"""

import logging
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from nano_cv.data import images
from nano_cv.data.formats import reading, splitting
from nano_cv.data.formats.splitting import Sample
from nano_cv.data.masks import load_mask, palette_of
from nano_cv.data.pictures import Pictures, evenly
from nano_cv.data.targets import INDICES, Meaning
from nano_cv.errors import UserError, listing

log = logging.getLogger(__name__)
UNKNOWN = ("void", "unlabelled", "unlabeled", "ignore", "_ignore_")  # class names of unknown pixels
MAX_COMPARED = 50  # masks, evenly chosen, that are compared with each other
MAX_INDEX = 240  # highest index that is taken for a class
IMAGES = ("images", "image", "imgs", "img", "jpegimages")  # folders, in lower case
MASKS = ("masks", "mask", "labels", "label", "annotations", "segmentationclass")
MASK = "_mask"  # at the end of the names of masks that lie beside their images
# Words in the names of images and masks that tell the two apart, as in `img_1.jpg`, `mask_1.png`.
KIND = re.compile(
    r"(?:^|(?<=[/_.-]))(?:images?|imgs?|rgb|sat|masks?|labels?|gt|seg)(?:[_.-]|$)", re.I
)
BESIDE = r"[ _-]?(masks?|labels?|annot|annotations?|gt)"  # `train_labels/` of `train/`
ROBOFLOW = "_classes.csv"  # lines such as `1, road`
TABLES = ("class_dict.csv", "label_colors.txt", "labelmap.txt")  # colours of CamVid, and of CVAT
Colours = dict[str, tuple[int, int, int]]


def read_folder_masks(
    root: Path,
    task: str,
    colours: Mapping[str, Sequence[int]] | None = None,
    ignore: int | Sequence[int] | None = None,
) -> dict[str, Pictures]:
    """Read a set for segmentation.

    `train.txt`, `val.txt` and `test.txt` list the images of a split, one per line, with or without
    ending; else folders tell the splits, see `group_by_folder` and `find_folders`. The classes are
    those of `colours`, as in `{road: [128, 64, 128]}`, or of a file of `TABLES`, or of
    `classes.txt`, one per line; without any, all masks are read, and the classes are `class 0` to
    the highest index. `ignore` are further values that mean an unknown class, as 255 does. Refused
    are images without masks or the reverse, and masks in 0 and 255 of more than two classes.
    """
    reading.check_task("A folder of masks", task, "segmentation")
    lists = root / "ImageSets/Segmentation"  # of CVAT and VOC
    lists = lists if splitting.group_by_split(lists.glob("*.txt")) else root
    return read_masks(root, find_folders(root), lists, colours, ignore)


def find_folders(root: Path) -> dict[str, tuple[Path, Path]]:
    """Return the folders of images and masks: of the set, under an empty name, or of each split.

    Splits are folders such as `train/` with both folders in them, or with images and masks side by
    side, `a.jpg` and `a_mask.png`, as Roboflow writes them; or `train/` beside `train_labels/`.
    """
    places = {"": root}
    beside = [path for path in reading.list_folder(root) if path.is_dir()]
    if not _named(beside, IMAGES) and (splits := splitting.one_by_split(beside)):
        places = splits
    pairs = {}
    for split, folder in places.items():
        inside = [path for path in reading.list_folder(folder) if path.is_dir()]
        images_folder, masks_folder = _named(inside, IMAGES), _named(inside, MASKS)
        if not (images_folder or masks_folder):
            like = re.compile(re.escape(folder.name) + BESIDE, re.IGNORECASE)
            found = [path for path in beside if split and like.fullmatch(path.name)]
            found = [path for path in found if holds_pictures(path)]
            found += [folder] if [*folder.glob(f"*{MASK}.*")] else []
            images_folder, masks_folder = (folder, found[0]) if found else (None, None)
        if not masks_folder and split == "test":
            log.warning("%s: passed over, for it has no masks", folder)
            continue
        if images_folder in inside and masks_folder:
            others = {*inside} - {images_folder, masks_folder}
            if names := sorted(path.name for path in others if holds_pictures(path)):
                text = "%s: folders of pictures that are passed over: %s"
                log.warning(text, folder, listing(names))
        images_folder = images_folder or folder / "images"
        masks_folder = masks_folder or folder / "masks"
        chosen = images_folder.name, masks_folder.name
        if chosen != ("images", "masks"):
            log.info("%s: images in %s/, masks in %s/", folder, *chosen)
        pairs[split] = images_folder, masks_folder
    if root not in places.values():
        used = [*places.values(), *(masks_folder for _, masks_folder in pairs.values())]
        splitting.warn_of_others(root, beside, used)
    return pairs


def _named(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    """Return the first of the folders that has one of the names, in this order, and pictures.

    Capital letters matter only if there are two such folders.
    """
    small_first = sorted(folders, key=lambda path: path.name != path.name.lower())
    named = [path for name in names for path in small_first if path.name.lower() == name]
    return next(filter(holds_pictures, named), None)


def holds_pictures(folder: Path) -> bool:
    """Return whether a picture lies below a folder; stops at the first."""
    names = (name for _, _, names in os.walk(folder, followlinks=True) for name in names)
    return any(name.lower().endswith(images.EXTENSIONS) for name in names)


def read_masks(
    root: Path,
    folders: Mapping[str, tuple[Path, Path]],
    lists_folder: Path,
    colours: Mapping[str, Sequence[int]] | None = None,
    ignore: int | Sequence[int] | None = None,
    usual: Sequence[str] = (),
    partly: bool = False,
) -> dict[str, Pictures]:
    """Read a set of masks from `folders`, see `find_folders`.

    `usual` are the classes if the set names none. With `partly` there is no warning of pictures
    that no list names.
    """
    pictures: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for split, (images_folder, masks_folder) in folders.items():
        own = reading.find_pictures(images_folder)
        if images_folder == masks_folder:
            drawn = {name: file for name, file in own.items() if name.endswith(MASK)}
            own = {name: file for name, file in own.items() if not name.endswith(MASK)}
        else:
            drawn = reading.find_pictures(masks_folder)
        above = f"{split}/" if split else ""
        pictures |= {above + name: file for name, file in own.items()}
        masks |= {above + name: file for name, file in by_picture(drawn, own).items()}
    lists = reading.read_lists(lists_folder, pictures)
    listed = [name for names in lists.values() for name in names]
    lonely = set(listed) - set(masks) if lists else set(pictures) ^ set(masks)
    if lonely:
        sides = [
            f"{pictures[name]} has no mask" if name in pictures else f"{masks[name]} has no picture"
            for name in sorted(lonely)
        ]
        ending = f"NAME{MASK}" if images_folder == masks_folder else "NAME"
        raise UserError(f"{listing(sides, most=3)}; a mask is {masks_folder.name}/{ending}.png")
    classes = read_names([root, *(folder for _, folder in folders.values())])
    classes, meaning = meaning_of(root, classes, colours, ignore)
    void = [index for index, name in enumerate(meaning.names) if name.lower() in UNKNOWN]
    if void := [index for index in void if index not in meaning.ignore]:
        log.warning(
            "%s: learnt as a class: %s; if its pixels have no known class, add data.ignore=%s",
            *(root, listing(meaning.names[index] for index in void)),
            void[0] if len(void) == 1 else str(void).replace(" ", ""),
        )
    if not meaning.colours and white_objects(masks.values(), classes or usual):
        meaning = meaning._replace(nonzero=True)
    if usual and not classes:
        log.info("%s: the classes are those of VOC; to name others, write classes.txt", root)
    classes = classes or list(usual) or numbered(masks.values(), meaning)
    every = [masks[name] for name in listed] or list(masks.values())
    some_masks = [every[index] for index in evenly(len(every), MAX_COMPARED)]
    if not meaning.colours:
        warn_of_palettes(some_masks)
    if len(classes) == 2 and not (meaning.colours or meaning.nonzero):
        warn_of_white(some_masks)
    if lists and not partly:
        reading.warn_of_unused(root, [pictures[name] for name in listed])
    samples = {
        split: [Sample(pictures[name], masks[name], name + pictures[name].suffix) for name in names]
        for split, names in (lists or group_by_folder(pictures)).items()
    }
    return splitting.as_splits(root, samples, classes, meaning)


def read_names(folders: Sequence[Path]) -> list[str]:
    """Read names of classes: `classes.txt`, labelme's `class_names.txt` or Roboflow's table."""
    if (file := folders[0] / "classes.txt").exists():
        return reading.read_classes(file)
    if (file := folders[0] / "class_names.txt").exists():
        if reading.read_lines(file)[:1] == ["_background_"]:
            return reading.read_classes(file)
        log.info("%s: passed over, for its first line is not '_background_'", file)
    tables = [folder / ROBOFLOW for folder in folders if (folder / ROBOFLOW).exists()]
    lines = [reading.read_lines(table) for table in tables]
    if not any(own and own[0].startswith("Pixel Value") for own in lines):
        return []
    others = [table for table, own in zip(tables, lines, strict=True) if own != lines[0]]
    splitting.refuse_several([tables[0], *others], "the names of the classes, which differ")
    pairs = [line.partition(",") for line in lines[0][1:]]
    names = [name.strip().strip('"') for _, _, name in pairs]
    if [number.strip() for number, _, _ in pairs] != [*map(str, range(len(names)))]:
        raise UserError(f"{tables[0]}: lines such as '1, road' belong there, numbered from 0")
    log.info("%s: the classes are named there", tables[0])
    return reading.check_class_names(names, tables[0])


def group_by_folder(pictures: Mapping[str, Path]) -> dict[str, list[str]]:
    """Group names such as `train/a` by split; all are `train` if there is no folder `train/`.

    Beside `train/`, pictures whose names begin with no split are passed over with a warning.
    """
    groups: dict[str | None, list[str]] = {}
    for name in pictures:
        split = splitting.called(name.split("/")[0]) if "/" in name else None
        groups.setdefault(split, []).append(name)
    if None in groups and "train" not in groups:
        return {"train": list(pictures)}
    if others := groups.pop(None, []):
        folder = pictures[others[0]].parents[others[0].count("/")]
        inside = {pictures[name].relative_to(folder).parts[0] for name in others}
        splitting.warn_of_others(folder, [folder / name for name in inside])
    return {split: names for split, names in groups.items() if split}


def by_picture(masks: dict[str, Path], pictures: Collection[str]) -> dict[str, Path]:
    """Return the masks by the names of their images.

    If no names are equal, a common suffix such as `_mask` is dropped; or the words of `KIND`, on
    both sides.
    """
    if not masks or set(masks) & set(pictures):
        return masks
    first, known = next(iter(masks)), set(pictures)
    tails = (first[start:] for start in range(1, len(first)))
    tail = next((end for end in tails if {name.removesuffix(end) for name in masks} <= known), "")
    bare = {_without_kind(name): name for name in pictures}
    whose = [name.removesuffix(tail) if tail else bare.get(_without_kind(name)) for name in masks]
    found = {name: file for name, file in zip(whose, masks.values(), strict=True) if name}
    if len(found) < len(masks) or (len(bare) < len(pictures) and not tail):
        return masks
    text = "%s: the mask of '%s' is taken to be '%s'"
    log.info(text, masks[first].parent, whose[0], first)
    return found


def _without_kind(name: str) -> str:
    return KIND.sub("", name).rstrip("_.-")


def meaning_of(
    root: Path,
    classes: list[str],
    colours: Mapping[str, Sequence[int]] | None = None,
    ignore: int | Sequence[int] | None = None,
) -> tuple[list[str], Meaning]:
    """Return class names and the meaning of the masks' pixels, from settings or a file in `root`.

    `classes` are the names of `classes.txt`, which select and order the names of a colour table.
    """
    indices = (ignore,) if isinstance(ignore, int) else tuple(ignore or ())
    known: Colours = {}
    source = "data.colours"
    table = next((root / name for name in TABLES if (root / name).exists()), None)
    if colours:
        named = {reading.normal(str(name)): colour for name, colour in colours.items()}
        known = {name: colour_of(colour, f"{source}: {name}") for name, colour in named.items()}
    elif table:
        known, source = read_colours(table), str(table)
        log.info("%s: classes and the colours of the masks are taken from there", table)
    if missing := [name for name in classes if known and name not in known]:
        raise UserError(f"{source}: no colour for {listing(missing)}, which is named as a class")
    twice = [name for name, colour in known.items() if list(known.values()).count(colour) > 1]
    if twice:
        raise UserError(f"{source}: the same colour for {listing(twice)}")
    classes = classes or list(known)
    drawn = tuple(known[name] for name in classes if known)
    kept = [name for index, name in enumerate(classes) if index not in indices]
    if dropped := sorted({*classes} - {*kept}):
        log.info("data.ignore=%s: unknown are pixels of %s", list(indices), listing(dropped))
    return kept, Meaning(drawn, indices, names=tuple(classes if known else ()))


def colour_of(values: Sequence[object], where: str) -> tuple[int, int, int]:
    """Return red, green and blue, 0 to 255, after a check of the values."""
    if isinstance(values, str) or len(values) != 3:
        raise UserError(f"{where}: a colour is [red, green, blue], and not: {values}")
    red, green, blue = numbers = [int(number) for number in reading.as_numbers(values, where)]
    if not all(0 <= number <= 255 for number in numbers):
        raise UserError(f"{where}: red, green and blue are 0 to 255, and not: {values}")
    return red, green, blue


def read_colours(file: Path) -> Colours:
    """Read class names and colours, per line `name,r,g,b`, `name:r,g,b::` or `r g b name`."""
    colours: Colours = {}
    for number, line in enumerate(reading.read_text(file).splitlines(), start=1):
        where, line = f"{file}: line {number}", line.strip()
        name_first = re.fullmatch(r"(.+?)\s*[,:]\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\b.*", line)
        name_last = re.fullmatch(r"(\d+)\s+(\d+)\s+(\d+)\s+(.+)", line)
        if name_first:
            name, *values = name_first.groups()
        elif name_last:
            *values, name = name_last.groups()
        elif not line or line.startswith("#") or (number == 1 and file.suffix == ".csv"):
            continue  # such as the header of a table: name,r,g,b
        else:
            raise UserError(f"{where}: a class and its colour belong there, and not: {line}")
        name = name.strip('"')
        if name in colours:
            raise UserError(f"{where}: the class '{name}' for the second time")
        colours[name] = colour_of(values, where)
    return colours


def white_objects(masks: Iterable[Path], classes: Sequence[str]) -> bool:
    """Return whether the masks have the values 0 and 255 (65535) only, so that 255 is the object.

    Reading stops at the first mask with another value, mostly the first mask of all. Without such a
    mask there must be two classes.
    """
    white = None
    for file in masks:
        values = set(np.unique(load_mask(file)))
        if values - {0, images.IGNORE}:
            return False
        white = white or (file if images.IGNORE in values else None)
    if white and classes and len(classes) != 2:
        raise UserError(
            f"{white}: the masks are drawn in 0 and 255, and there are {len(classes)} classes "
            f"({listing(classes)}); a mask has class indices, and 255 where none is known"
        )
    if white:
        log.info("%s: the masks are drawn in 0 and 255; 255 is taken as class 1", white.parent)
    return white is not None


def warn_of_white(masks: Iterable[Path]) -> None:
    """Warn if some masks are drawn in 0 and 255, and others in class indices."""
    kinds: dict[bool, Path] = {}
    for file in masks:
        with suppress(images.ImageError):  # reported later, when all are decoded
            mask = load_mask(file)
            if mask.any():
                kinds.setdefault(bool(mask[mask > 0].min() == images.IGNORE), file)
        if len(kinds) == 2:
            log.warning(
                "%s: drawn in 0 and 255, and %s in class indices; in masks such as the first, 255 "
                "counts as unknown",
                *(kinds[True], kinds[False]),
            )
            return


def warn_of_palettes(masks: Iterable[Path]) -> None:
    """Warn if two masks have different colours at an index that both use."""
    palettes: dict[Path, list[tuple[int, ...]]] = {}
    for file in masks:
        with suppress(images.ImageError):  # reported later, when all are decoded
            if colours := palette_of(file):
                palettes[file] = colours
    if len(set(map(tuple, palettes.values()))) < 2:
        return  # so no mask has to be decoded
    first: dict[int, Path] = {}
    for file, colours in palettes.items():
        with suppress(images.ImageError, IndexError):  # an index beyond the palette has no colour
            for index in np.unique(load_mask(file)).tolist():
                other = first.setdefault(index, file)
                if palettes[other][index] != colours[index]:
                    log.warning(
                        "%s and %s have different colours at index %d: %s and %s. The indices "
                        "count; data.colours reads the colours instead",
                        *(other, file, index, palettes[other][index], colours[index]),
                    )
                    return


def numbered(masks: Iterable[Path], meaning: Meaning = INDICES) -> list[str]:
    """Return the names `class 0` to `class N`, where N is the highest index in the masks.

    Refused are indices that are hardly those of classes: most of those below N never occur, or N is
    above `MAX_INDEX`. A warning names masks that seem to number instances.
    """
    indices, highests, without_gaps, folder = set[int](), set[int](), True, Path()
    for file in masks:
        own = {*np.unique(load_mask(file, meaning=meaning)).tolist()} - {images.IGNORE}
        indices, highests, folder = indices | own, highests | {max(own, default=0)}, file.parent
        without_gaps = without_gaps and {*range(1, max(own, default=0))} <= own
    highest = max(indices, default=0)
    if len(highests - {0}) > 3 and without_gaps:
        text = "%s: the numbers in each mask run from 1 without gaps, as in masks of instances; if "
        text += "they are no classes, save masks with 1 at every object"
        log.warning(text, folder)
    if highest > min(2 * len(indices) + 2, MAX_INDEX):
        raise UserError(
            f"masks have the values {listing(sorted(indices))} and no others up to {highest}: "
            "hardly class indices, but perhaps smooth edges (anti-aliasing), which a mask cannot "
            "have; or name the classes in classes.txt, one a line, or their "
            "colours: data.colours='{road: [128,128,128]}'"
        )
    numbers = [index for index in range(images.IGNORE) if index not in meaning.ignore]
    return [f"class {index}" for index in numbers[: highest + 1]]
