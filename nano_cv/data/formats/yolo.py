"""Reader of YOLO text files: `images/<split>/a.jpg`, and `labels/<split>/a.txt`.

The paths of `data.yaml`, and the layouts of Roboflow, Label Studio and CVAT, are read too; see
`find_splits`. A line of a text file describes an object: `class cx cy width height`, or a class and
the corners of a polygon, in shares of the width and height of the upright image. With `kpt_shape`
in `data.yaml` key points follow the box.
"""

import logging
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from nano_cv.data import images
from nano_cv.data.formats import outlines, reading, splitting
from nano_cv.data.formats.reading import Object
from nano_cv.data.formats.splitting import called
from nano_cv.data.pictures import Pictures
from nano_cv.errors import UserError, listing

log = logging.getLogger(__name__)
SLACK = 0.1  # shares may exceed 0 and 1 by this much, for rounding and careless labelling
NO_LABELS = ("classes", "notes", "readme", "license")  # text files that lie beside labels
NOT_SPLITS = "labels|data|obj_.+_data"  # folders beside splits; the last are CVAT's
YAML = ("data.yaml", "data.yml")


def read_yolo(root: Path, task: str) -> dict[str, Pictures]:
    """Read a set for detection; or for segmentation, where its objects are polygons.

    The classes are `names` of `data.yaml`, a list or a mapping from numbers, or else the lines of
    `classes.txt` or `obj.names`; classes without objects are kept. An image without a text file has
    no objects. A polygon or a turned box becomes the upright box around it. `root` may be the YAML
    file itself.
    """
    reading.check_task("YOLO text", task, "detection", "segmentation")
    source = root if root.is_file() else find_yaml(root)
    root = root.parent if root.is_file() else root
    content = read_yaml(source) if source else {}
    classes = names_of(content, source) if source else read_names(root)
    splits = find_splits(root, content, source)
    every = [file for files in splits.values() for file in files]
    labels = reading.find_labels(every, ".txt", ["labels"], NO_LABELS)
    shape = content.get("kpt_shape")
    sides = shape if isinstance(shape, list) else ["0"]
    points = math.prod(int(side) if str(side).isdecimal() else 0 for side in sides)
    samples = {}
    for split, files in splits.items():
        if files and labels.keys().isdisjoint(files):
            if split == "test":
                log.warning("%s: passed over, for it has no text files", files[0].parent)
                continue
            raise UserError(f"{files[0].parent}: no text file for any of the {len(files)} pictures")
        if empty := sum(file not in labels for file in files):
            log.info("%s: '%s': %d pictures without a text file show no object", root, split, empty)
        objects = [
            list(read_objects(labels[file], file, len(classes), points)) if file in labels else []
            for file in files
        ]
        targets = outlines.targets_for(task, root, root, files, objects, classes)
        samples[split] = reading.as_samples(root, files, targets)
    return splitting.as_splits(root, samples, outlines.classes_for(task, classes))


# data.yaml


def find_yaml(root: Path) -> Path | None:
    """Find `data.yaml` in a folder, or else the only YAML file there with a key `names`."""
    usual = [root / name for name in YAML if (root / name).is_file()]
    others = sorted(file for ending in ("yaml", "yml") for file in root.glob(f"[!.]*.{ending}"))
    files = usual or [file for file in others if "names" in read_yaml(file)]
    if len(files) > 1:
        raise UserError(f"{listing(files)}: several describe the set; choose one: data.root=FILE")
    if files and not usual:
        log.info("%s: described by %s", root, files[0].name)
    return files[0] if files else None


def read_yaml(file: Path) -> dict[str, Any]:
    """Read the mapping in a YAML file; empty if the content is no mapping.

    All values are read as text, as the words `no` and `010` may be names of classes.
    """
    text = reading.read_text(file)
    with reading.well_formed(file, "YAML"):
        content = yaml.load(text, yaml.BaseLoader)
    return content if isinstance(content, dict) else {}


def names_of(content: Mapping[str, Any], file: Path) -> list[str]:
    """Return the class names of `data.yaml`."""
    names = content.get("names")
    if isinstance(names, dict) and all(key.isdecimal() and len(key) < 5 for key in names):
        by_number = {int(key): value for key, value in names.items()}
        names = [by_number.get(n, f"class {n}") for n in range(max(by_number, default=-1) + 1)]
        if len(names) > len(by_number):
            lacking = sorted(set(range(len(names))) - by_number.keys())
            log.warning("%s: names: no name for class %s", file, listing(map(str, lacking)))
    if not isinstance(names, list):
        raise UserError(f"{file}: 'names' is a list of classes, or a mapping from 0, 1, 2, ...")
    if wrong := [type(name).__name__ for name in names if not isinstance(name, str)]:
        raise UserError(f"{file}: names: {wrong[0]} is not text; put the name in quotes")
    count = content.get("nc", str(len(names)))
    if isinstance(count, str) and count != str(len(names)):
        raise UserError(f"{file}: nc is {count}, and there are {len(names)} names")
    return reading.check_class_names(names, file)


def read_names(root: Path) -> list[str]:
    """Read the class names of a set without `data.yaml` from the lines of a text file."""
    places = ("classes.txt", "labels/classes.txt", "obj.names", "data/obj.names")
    files = [root / place for place in places if (root / place).is_file()]
    if not files:
        raise UserError(
            f"{root / 'data.yaml'}: not there, nor {listing(places)}, so the classes have "
            "no names; write one of these, such as classes.txt with a name a line"
        )
    lines = [reading.read_lines(file) for file in files]
    others = [file for file, own in zip(files, lines, strict=True) if own and own != lines[0]]
    splitting.refuse_several([files[0], *others], "the names of the classes, which differ")
    return reading.read_classes(files[0])


# Where pictures and labels lie


def find_splits(
    root: Path, content: Mapping[str, Any], source: Path | None
) -> dict[str, list[Path]]:
    """Find the images of each existing split; without splits, all images as `train`.

    In `data.yaml` a split is a folder, a file that lists images, or several of these, relative to
    `path` or to `data.yaml`. Otherwise a split is `images/<split>/`, `<split>/images/`, `<split>/`
    or `<split>.txt`, or one of them in `data/`; without splits, all images in `images/` or in
    `root` are read.
    """
    entries: dict[str, list[Path]] = {}
    for key, value in content.items():
        split = called(key)
        if split is None or not value or str(value).lower() in ("~", "null"):
            continue
        if split in entries:
            raise UserError(f"{source}: '{key}': the split '{split}' is given twice")
        where = f"{source}: {key}"
        values = value if isinstance(value, list) else [value]
        if wrong := [type(text).__name__ for text in values if not isinstance(text, str)]:
            raise UserError(f"{where}: a path or a list of paths belongs there, no {wrong[0]}")
        places = {text: place_of(root, text, content.get("path"), split) for text in values}
        absent = [text for text, place in places.items() if not place]
        entries[split] = [place for place in places.values() if place]
        if absent and (split == "train" or entries[split]):
            raise UserError(f"{where}: {listing(absent)}: no such file or folder")
        if absent:
            log.warning("%s: %s is not there", where, listing(absent))
    splits = {}
    chosen = entries or usual_places(root)
    for split, paths in chosen.items():
        files = [file for path in paths for file in find_pictures(path, root, split)]
        reading.refuse_repeated(files, f"{listing(paths)}: names a picture twice")
        if paths:
            log.info("%s: '%s' is %s", root, split, listing(paths))
        splits[split] = files
    if not entries and chosen in ({"train": [root]}, {"train": [root / "images"]}):
        # Nothing states the splits, but folders further down may.
        files = splits["train"]
        splits = splitting.by_split(files, splitting.by_folders(root, files))
    folders = {file.parent for files in splits.values() for file in files}
    used = {above for folder in folders for above in (folder, *folder.parents)}
    unnamed = [
        path
        for base in ((root, root / "images") if entries else ())
        for split, inside in splitting.group_by_split(base.glob("[!.]*/")).items()
        for path in inside
        if split not in entries and path not in used
    ]
    if unnamed:
        log.warning(
            "%s: passed over, for it has no entry for these splits: %s", source, listing(unnamed)
        )
    paths = [path for own in chosen.values() for path in own]
    default = root / "default.txt"
    if default.exists() and default not in paths and any(map(Path.is_file, paths)):
        text = "%s: its pictures are of no subset in CVAT, so they are in no split and are not read"
        log.warning(text, default)
    return splits


def place_of(root: Path, entry: str, path: Any, split: str) -> Path | None:
    """Find the path of an entry of `data.yaml`; paths of other machines match by their ends.

    So does `../train/images`, as Roboflow writes it for `train/images` beside `data.yaml`. But an
    end without the split that the path names is another folder.
    """
    base = reading.find_existing(path, [root]) if isinstance(path, str) else None
    folders = [base or root, root]
    parts = [part for part in entry.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    own = [called(part) == split for part in parts]
    ends = [start for start in range(len(parts)) if any(own[start:]) == any(own)]
    paths = [entry, *("/".join(parts[start:]) for start in ends)]
    return next(filter(None, (reading.find_existing(text, folders) for text in paths)), None)


def usual_places(root: Path) -> dict[str, list[Path]]:
    """Find the folder or list file of each split, for a set whose `data.yaml` names none."""
    for folder in (root / "images", root, root / "data"):  # the last has Darknet's lists
        inside = reading.list_folder(folder)
        inside = [path for path in inside if not re.fullmatch(NOT_SPLITS, path.name.lower())]
        places = [path for path in inside if path.is_dir() or path.suffix == ".txt"]
        splits = splitting.one_by_split(places)
        if splits := splits or splitting.by_words([path for path in places if path.is_dir()]):
            lists = any(map(Path.is_file, splits.values()))  # of pictures in these folders
            splitting.warn_of_others(folder, inside, splits.values(), ["images", "obj"] * lists)
            return {split: [place] for split, place in splits.items()}
    pool = root / "images"
    return {"train": [pool if pool.is_dir() else root]}


def find_pictures(place: Path, root: Path, split: str) -> list[Path]:
    """Find the images in a folder, or the images that a list file names."""
    if place.is_dir():
        inner = place / "images"
        if not inner.is_dir():
            return list(images.find(place))
        splitting.warn_of_others(place, filter(Path.is_file, reading.list_folder(place)))
        return list(images.find(inner))
    if place.suffix.lower() != ".txt":
        raise UserError(
            f"{place}: neither a folder of pictures nor a list of them that ends in .txt"
        )
    lines = reading.read_lines(place)
    return reading.find_named(place, lines, [place.parent, root], root, split)


# Text files


def read_objects(file: Path, picture: Path, classes: int, points: int) -> Iterator[Object]:
    """Yield the objects of a text file, with corners in pixels of the image.

    `points` is the number of columns with key points, which follow each box and are not read.
    """
    size = reading.size_of(picture) or images.dimensions(picture)  # which says why it cannot
    for number, line in enumerate(reading.read_text(file).splitlines(), start=1):
        columns, where = line.split(), f"{file}, line {number}"
        if not columns:
            continue
        if len(columns) == 5 + points:
            columns = columns[:5]
        if len(columns) != 5 and (len(columns) < 7 or len(columns) % 2 == 0):
            seems = "; six are a prediction with its confidence" if len(columns) == 6 else ""
            raise UserError(
                f"{where}: {len(columns)} columns; 'class cx cy width height' are 5, and a polygon "
                f"has a class and pairs of x y; key points need kpt_shape in data.yaml{seems}"
            )
        label, *shares = reading.as_numbers(columns, where)
        if label not in range(classes):
            raise UserError(f"{where}: class {columns[0]}; the classes are 0 to {classes - 1}")
        if not all(-SLACK <= share <= 1 + SLACK for share in shares):
            raise UserError(f"{where}: {' '.join(columns[1:])}: shares of the picture are 0 to 1")
        outline = None
        if len(shares) == 4:
            cx, cy, width, height = shares
            xs, ys = [cx - width / 2, cx + width / 2], [cy - height / 2, cy + height / 2]
        else:
            xs, ys = shares[::2], shares[1::2]
            outline = [[share * size[n % 2] for n, share in enumerate(shares)]]
        corners = min(xs) * size[0], min(ys) * size[1], max(xs) * size[0], max(ys) * size[1]
        yield Object(corners, int(label), where, outline=outline)
