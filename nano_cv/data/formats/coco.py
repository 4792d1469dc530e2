"""Reader of COCO JSON: `annotations/<split>.json`, and images in `images/`.

The layouts of CVAT, Roboflow, Label Studio, FiftyOne and COCO itself are read too; see
`find_sources` and `folders_of`.

Boxes are x, y, width and height in pixels, from 0 at the upper left corner of the image.
"""

import json
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nano_cv.data import images
from nano_cv.data.formats import outlines, reading, splitting
from nano_cv.data.formats.reading import Object
from nano_cv.data.formats.splitting import Sample, called
from nano_cv.data.pictures import SPLITS, Pictures
from nano_cv.data.targets import COUNTED, CROWD
from nano_cv.errors import UserError, listing

log = logging.getLogger(__name__)
Content = dict[str, list[dict[str, Any]]]
Ident = int | str
ID_TYPES = int | str | float  # ids as programs write them
FIELDS: dict[str, dict[str, Any]] = {  # needed fields of each list, with their types
    "categories": {"id": ID_TYPES, "name": str | int},
    "images": {"id": ID_TYPES, "file_name": str},
    "annotations": {"image_id": ID_TYPES, "category_id": ID_TYPES},
}
RUN = "[P-o]{0,6}[0-O]"  # a run in the text of a mask, in which letters from P on mean "goes on"
BRUSH = "masks with iscrowd=1 are taken as single objects: CVAT marks what its brush paints so"
TURNED = "turned boxes are taken as the upright boxes around them"
GROUP = "groups of objects (iscrowd) are not learnt"
# Prefixes of COCO's other files for the same images, without boxes or with fewer classes.
OTHERS = ("captions", "image_info", "panoptic", "person_keypoints", "stuff")


def read_coco(root: Path, task: str) -> dict[str, Pictures]:
    """Read a set for detection; or for segmentation, where its objects have outlines.

    The classes are the categories of `train.json` in the order of their ids, which may have gaps.
    Categories without objects are kept, except an unused supercategory, as Roboflow writes one.

    Groups of objects (`iscrowd`) are not learnt, and predictions there count as neither right nor
    wrong; but CVAT marks each mask of its brush so, which is an object. Boxes of no size are left
    out with a warning. An object without `bbox` gets the box around its `segmentation`. `root` may
    be a JSON file, with its images below its folder.
    """
    reading.check_task("COCO JSON", task, "detection", "segmentation")
    sources = {"train": root} if root.is_file() else find_sources(root)
    if root.is_file():
        root = root.parents[root.parent.name.lower() == "annotations"]
    contents = {split: load(file) for split, file in sources.items()}
    classes = classes_of(contents, sources["train"])
    samples = {
        split: samples_of(contents[split], classes, root, file, task)
        for split, file in sources.items()
    }
    reading.warn_of_unused(root, [sample.file for part in samples.values() for sample in part])
    if list(sources) == ["train"] and not called_of(root, sources["train"]):
        files = [sample.file for sample in samples["train"]]
        samples = splitting.by_split(samples["train"], splitting.by_folders(root, files))
    return splitting.as_splits(root, samples, outlines.classes_for(task, classes))


def samples_of(
    content: Content, classes: list[str], root: Path, source: Path, task: str
) -> list[Sample]:
    """Return the images of a JSON file with their boxes or masks."""
    entries = content["images"]
    names = [image["file_name"] for image in entries]
    own = called_of(root, source)
    files = reading.find_named(source, names, folders_of(root, source, own), root, own)
    reading.refuse_repeated(files, f"{source}: several images of one file_name")
    stated = [(image.get("width"), image.get("height")) for image in entries]
    reading.compare_sizes(source, dict(zip(files, stated, strict=True)))
    objects = objects_of(content, classes, source, task) if entries else {}
    pictures = [objects[image["id"]] for image in entries]
    targets = outlines.targets_for(task, root, source, files, pictures, classes)
    rows = zip(files, targets, names, strict=True)
    return [Sample(file, target, name.replace("\\", "/")) for file, target, name in rows]


def called_of(root: Path, source: Path) -> str | None:
    """Return the split in the name of a JSON file or its folder; None if there is no split."""
    if splitting.split_words(source.stem) or source.parent == root:
        return splitting.split_in(source.stem)
    return called(source.parent.name)


def find_sources(root: Path) -> dict[str, Path]:
    """Find the JSON files below `root` by split; a file without a split in its name is `train`."""
    by_split: dict[str | None, list[Path]] = defaultdict(list)
    every = sorted({*root.glob("[!.]*.json"), *root.glob("[!.]*/[!.]*.json")})
    for file in every:
        by_split[called_of(root, file)].append(file)
    chosen = {split: only for split, files in by_split.items() if (only := _only(files, split))}
    # The file without a split in its name comes first, so that one named `train` goes before it.
    sources = {split or "train": chosen[split] for split in (None, *SPLITS) if split in chosen}
    if "train" not in sources:
        hint = f"; there is: {listing(every)}; a COCO file has {listing(FIELDS)}" if every else ""
        raise UserError(f"{root}/annotations/train.json: cannot be read: No such file{hint}")
    log.info("%s: labels from %s", root, listing(sources.values()))
    if rest := [file for file in every if file not in sources.values()]:
        lost = any(file.stem.endswith("default") for file in rest)  # CVAT's tasks without a subset
        level = logging.WARNING if lost else logging.INFO
        log.log(level, "%s: other JSON files were passed over: %s", root, listing(rest))
    return sources


def _only(files: list[Path], split: str | None) -> Path | None:
    """Choose the file with objects among the JSON files of a split."""
    plain = [file for file in files if not file.stem.startswith(OTHERS)]
    files = plain or [file for file in files if not file.stem.startswith(OTHERS[:3])]
    if len(files) > 1 or (files and split is None):
        files = [file for file in files if has_objects(file)]
    splitting.refuse_several(files, f"the split '{split}'" if split else "the labels")
    return files[0] if files else None


def has_objects(file: Path) -> bool:
    """Return whether a JSON file is a COCO file with boxes or outlines, or with no objects."""
    try:
        entries = load(file)["annotations"]
    except UserError:
        return False
    return not entries or any(entry.get("bbox") or entry.get("segmentation") for entry in entries)


def load(file: Path) -> Content:
    """Load the lists of a COCO file; refuses entries without a needed field."""
    text = reading.read_text(file)
    with reading.well_formed(file, "JSON"):
        content = json.loads(text)
    for key, fields in FIELDS.items():
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise UserError(f"{file}: no list '{key}'; a COCO file has {listing(FIELDS)}")
        for number, item in enumerate(entries):
            entry = item if isinstance(item, dict) else {}
            for name, kind in fields.items():
                if not isinstance(entry.get(name), kind) or isinstance(entry[name], bool):
                    ident = entry.get("id", f"number {number}")
                    raise UserError(
                        f"{file}: {key} {ident}: '{name}' is missing or of a wrong type"
                    )
                if kind is ID_TYPES:
                    entry[name] = as_ident(entry[name])
    for key in ("categories", "images"):
        idents = [entry["id"] for entry in content[key]]
        reading.refuse_repeated(idents, f"{file}: two {key} of one id")
    for category in content["categories"]:
        category["name"] = reading.normal(str(category["name"]).strip())
    return content


def as_ident(written: int | str | float) -> Ident:
    """Return the same id for 1, "1" and 1.0."""
    if isinstance(written, float):
        return int(written) if written.is_integer() else str(written)
    return int(written) if re.fullmatch(r"0|[1-9]\d{0,17}", str(written)) else written


def classes_of(contents: Mapping[str, Content], source: Path) -> list[str]:
    """Return the names of the categories of `train`, in the order of their ids."""
    train = contents["train"]["categories"]
    ordered = sorted(train, key=lambda category: (isinstance(category["id"], str), category["id"]))
    used = set()
    for content in contents.values():
        ids = {annotation["category_id"] for annotation in content["annotations"]}
        used |= {_kind(category) for category in content["categories"] if category["id"] in ids}
    roots = [
        category
        for category in ordered
        if _kind(category) not in used
        and any(_kind(other)[1] == category["name"] for other in ordered if other is not category)
    ]
    if roots:
        log.warning(
            "%s: no class, for it has no objects and stands above other categories: %s",
            *(source, listing(category["name"] for category in roots)),
        )
    names = [category["name"] for category in ordered if category not in roots]
    return reading.check_class_names(names, source)


def _kind(category: Mapping[str, Any]) -> tuple[str, str]:
    return category["name"], str(category.get("supercategory"))


def objects_of(
    content: Content, classes: list[str], source: Path, task: str
) -> dict[Ident, list[Object]]:
    """Return the objects of each image, by the image's id; with outlines for segmentation."""
    objects: dict[Ident, list[Object]] = {image["id"]: [] for image in content["images"]}
    used = {annotation["category_id"] for annotation in content["annotations"]}
    labels = {
        ident: reading.class_index(category["name"], classes, f"{source}: category {ident}")
        for category in content["categories"]
        if (ident := category["id"]) in used
    }
    remarks: Counter[str] = Counter()
    for number, annotation in enumerate(content["annotations"]):
        image, category = annotation["image_id"], annotation["category_id"]
        where = f"{source}: annotation {annotation.get('id', f'number {number}')}"
        if image not in objects or category not in labels:
            lacking = f"category {category}" if image in objects else f"image {image!r}"
            raise UserError(f"{where}: there is no {lacking} in this file")
        corners = corners_of(annotation, where)
        crowd = annotation.get("iscrowd") in (1, "1")
        brush = crowd and bool(_attributes(annotation))
        if crowd:
            remarks[BRUSH if brush else GROUP] += 1
        if annotation.get("bbox") and _angle(annotation):
            remarks[TURNED] += 1
        ignored = CROWD if crowd and not brush else COUNTED
        outline = outline_of(annotation, where) if task == "segmentation" else None
        objects[image].append(Object(corners, labels[category], where, ignored, outline))
    for what, count in remarks.items():
        log.info("%s: %d %s", source, count, what)
    return objects


def _attributes(annotation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes that CVAT writes of an object; empty if it was not CVAT."""
    attributes = annotation.get("attributes")
    return attributes if isinstance(attributes, dict) and "occluded" in attributes else {}


def _angle(annotation: Mapping[str, Any]) -> Any:
    """Return the angle by which CVAT's box is turned; a `bbox` around an outline is upright."""
    return 0 if annotation.get("segmentation") else _attributes(annotation).get("rotation")


def corners_of(annotation: dict[str, Any], where: str) -> tuple[float, float, float, float]:
    """Return x1, y1, x2, y2 in pixels of an annotation's `bbox`, or else of its outline."""
    if bbox := annotation.get("bbox"):
        box = reading.as_numbers(bbox if isinstance(bbox, list) else ["?"], where)
        if len(box) != 4:
            raise UserError(f"{where}: a bbox is [x, y, width, height], and not {bbox}")
        x, y, width, height = box
        return reading.turned((x, y, x + width, y + height), _angle(annotation))
    outline = outline_of(annotation, where)
    if not outline:
        raise UserError(f"{where}: 'bbox' is missing or of a wrong type, and no 'segmentation'")
    if isinstance(outline, dict):
        from pycocotools import mask

        x, y, width, height = mask.toBbox(mask.frPyObjects(outline, *outline["size"])).tolist()
        return x, y, x + width, y + height
    xs = [x for polygon in outline for x in polygon[::2]]
    ys = [y for polygon in outline for y in polygon[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def outline_of(annotation: dict[str, Any], where: str) -> Any:
    """Return an annotation's `segmentation`: polygons in pixels, or runs; None if there is none."""
    outline = annotation.get("segmentation")
    if isinstance(outline, dict):
        return check_runs(outline, where)
    if not outline or not isinstance(outline, list):
        return None
    polygons = outline if isinstance(outline[0], list) else [outline]
    if any(not isinstance(p, list) or not p or len(p) % 2 for p in polygons):
        raise UserError(f"{where}: a polygon of 'segmentation' is [x1, y1, x2, y2, ...]")
    return [reading.as_numbers(polygon, where) for polygon in polygons]


def check_runs(runs: dict[str, Any], where: str) -> dict[str, Any]:
    """Check a mask in COCO's run-length encoding (RLE), and return its size and run lengths."""
    size: Any = runs.get("size")
    counts: Any = runs.get("counts")
    if isinstance(counts, str) and re.fullmatch(f"({RUN})+", counts):
        counts = runs_in(counts)
    both = [*size, *counts] if isinstance(size, list) and isinstance(counts, list) else [None]
    if not all(type(number) is int and number >= 0 for number in both) or len(size) != 2:
        raise UserError(f"{where}: a segmentation has 'size': [height, width], and 'counts'")
    if not 0 < sum(counts) == size[0] * size[1] <= images.MAX_PIXELS:
        raise UserError(
            f"{where}: the 'counts' of a segmentation add up to its 'size', which is at most "
            f"{images.MAX_PIXELS:,} pixels"
        )
    return {"size": size, "counts": counts}


def runs_in(text: str) -> list[int]:
    """Decode the lengths of the runs in COCO's compressed text, which pycocotools does not check.

    A run is a signed number in groups of five bits, the lowest first. From the fourth run on, the
    number is the difference to the run two before.
    """
    runs: list[int] = []
    for letters in re.findall(RUN, text):
        groups = [ord(letter) - 48 for letter in letters]
        number = sum((group & 31) << 5 * place for place, group in enumerate(groups))
        if groups[-1] & 16:
            number -= 1 << 5 * len(groups)
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
    return runs


def folders_of(root: Path, source: Path, split: str | None) -> list[Path]:
    """List folders that a `file_name` in a JSON file may be relative to, the likeliest first."""
    named = [
        folder
        for base in (root / "images", root)
        for folder in splitting.group_by_split(reading.list_folder(base)).get(split or "", [])
        if folder.is_dir()
    ]
    inside = [folder / name for folder in named for name in ("images", "data")]
    rest = [root, source.parent, source.parent / "images", root / "images/default", root / "data"]
    return list(dict.fromkeys([root / "images", *named, *inside, *rest]))
