"""Reader of PASCAL VOC: `JPEGImages/`, XML files of boxes or palette PNGs, lists in `ImageSets/`.

Images and XML files as labelImg and Roboflow write them are read too; see `find_splits`.

VOC counts pixels from 1, and the last pixel is inside, so a box from 1 to 2 is two pixels wide.
This reader converts such a box to 0 to 2. labelImg, CVAT, Label Studio and makesense count from
0. Their files name one of `FROM_0` as the database; then left and upper edges stay as they are.
"""

import logging
from pathlib import Path
from xml.etree import ElementTree

from nano_cv.data.formats import reading, splitting
from nano_cv.data.formats.folder_masks import holds_pictures, read_masks
from nano_cv.data.formats.reading import Object
from nano_cv.data.pictures import Pictures
from nano_cv.data.targets import COUNTED, DIFFICULT
from nano_cv.errors import UserError, listing

log = logging.getLogger(__name__)
CLASSES = [
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
]  # fmt: skip
LABELS = ("annotations", "labels", "xml")  # folders of the XML files
FROM_0 = ("unknown", "mydatabase", "unspecified")  # databases of tools that count from 0
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_voc(root: Path, task: str, partly: bool = False) -> dict[str, Pictures]:
    """Read a set for detection or segmentation.

    The classes are those of `classes.txt`, one per line. Without that file, they are for detection
    all names that occur in any split, sorted, and for segmentation the 21 classes of VOC with the
    background first. For detection `background` is no class. Objects marked as difficult are not
    learnt, and predictions there count as neither right nor wrong; a name that only such objects
    have is no class.

    For segmentation each image has a mask, `SegmentationClass/*.png`, and the lists lie in
    `ImageSets/Segmentation/`. With `partly` there is no warning of pictures that no list names.
    """
    reading.check_task("PASCAL VOC", task, "detection", "segmentation")
    root = find_set(root)
    if task == "segmentation":
        folders = {"": (root / "JPEGImages", root / "SegmentationClass")}
        lists = root / "ImageSets/Segmentation"
        return read_masks(root, folders, lists, usual=CLASSES, partly=partly)
    splits = find_splits(root)
    every = [file for files in splits.values() for file in files]
    if not partly:
        reading.warn_of_unused(root, every)
    labels = reading.find_labels(every, ".xml", LABELS)
    if not labels:
        raise UserError(
            f"{root}: no label NAME.xml for any of the {len(every)} pictures; known are "
            "JPEGImages/ with Annotations/, or pictures and XML files side by side"
            + "; annotations.xml is CVAT's own: export COCO"
            * (root / "annotations.xml").exists()
        )
    # Labelling programs write a file even for an image without objects: these are not labelled yet.
    lacking = [file.name for file in every if file not in labels]
    reading.warn_of(root, "pictures without a label were left out", lacking)
    contents = {file: read_xml(label) for file, label in labels.items()}
    reading.compare_sizes(root, {file: size for file, (size, _) in contents.items()})
    own = root / "classes.txt"
    classes = reading.read_classes(own) if own.exists() else []
    classes = [name for name in classes if name != "background"]
    if not classes:
        every_object = [pair for _, objects in contents.values() for pair in objects]
        counted = {name for name, item in every_object if item.ignored == COUNTED}
        if lost := sorted({name for name, _ in every_object} - counted):
            log.warning(
                "%s: left out: classes of which every object is difficult: %s", root, listing(lost)
            )
        classes = reading.check_class_names(sorted(counted), root)
    samples = {}
    for split, files in splits.items():
        files = [file for file in files if file in labels]
        objects = [
            [
                item._replace(label=reading.class_index(name, classes, item.where))
                for name, item in contents[file][1]
                if item.ignored == COUNTED or name in classes
            ]
            for file in files
        ]
        samples[split] = reading.as_samples(root, files, reading.as_boxes(root, objects))
    return splitting.as_splits(root, samples, classes)


# Where pictures and labels lie


def find_set(root: Path) -> Path:
    """Return the folder with `ImageSets/`: `root`, or one below it, as `VOCdevkit/VOC2012/`."""
    if any((root / name).is_dir() for name in ("ImageSets", "JPEGImages")):
        return root
    beside = reading.list_folder(root)
    folders = [path for path in beside if not splitting.called(path.name)]
    inside = [folder for folder in folders if (folder / "ImageSets").is_dir()]
    no_set = folders == beside and {"images", *LABELS}.isdisjoint(p.name.lower() for p in beside)
    for place in ("*/ImageSets", "*/*/ImageSets") if no_set else ():  # as in `VOCdevkit/VOC2007/`
        inside = inside or [path.parent for folder in folders for path in folder.glob(place)]
    if not inside:
        return root
    splitting.refuse_several(inside, "the set (data.root)")
    log.info("%s: the set lies in %s", root, inside[0].relative_to(root))
    return inside[0]


def find_splits(root: Path) -> dict[str, list[Path]]:
    """Find the images of each existing split; without splits, all as `train`.

    Splits are the lists of `ImageSets/Main/`, of `ImageSets/` or of the root, or folders such as
    `train/`. In each folder the images lie in `JPEGImages/` or `images/`, or beside their XML
    files. Without either, folders further down may tell the splits, see `splitting.by_folders`.
    """
    pool = next((root / name for name in ("JPEGImages", "images") if (root / name).is_dir()), root)
    inside = reading.list_folder(root)
    folders = [path for path in inside if path.is_dir() and splitting.called(path.name)]
    groups = splitting.group_by_split(filter(holds_pictures, folders))
    for folder in (root / "ImageSets/Main", root / "ImageSets", *([] if groups else [root])):
        named = splitting.group_by_split(folder.glob("*.txt"))
        if "train" in named or (named and folder != root):
            pictures = reading.find_pictures(pool)
            lists = reading.read_lists(folder, pictures)
            return {split: [pictures[name] for name in names] for split, names in lists.items()}
    if groups and pool.name != "JPEGImages":
        splitting.warn_of_others(root, inside, folders, LABELS)
        return {
            split: [file for folder in own for file in reading.find_pictures(folder).values()]
            for split, own in groups.items()
        }
    files = list(reading.find_pictures(pool if pool.name == "JPEGImages" else root).values())
    return splitting.by_split(files, splitting.by_folders(root, files))


# XML files


def read_xml(file: Path) -> tuple[tuple[float, float], list[tuple[str, Object]]]:
    """Read an XML file: width and height of the image (0 if not stated), and named objects.

    The boxes are in pixels from 0; the labels are still -1.
    """
    content = reading.read_bytes(file)
    with reading.well_formed(file, "XML"):
        tree = ElementTree.fromstring(content)
    for element in tree.iter():
        element.tag = str(element.tag).rpartition("}")[2]  # without the namespace
    first = 0 if tree.findtext("source/database", "").strip().lower() in FROM_0 else 1
    objects = []
    for number, element in enumerate(tree.iter("object"), start=1):
        where = f"{file}: object {number}"
        name = reading.normal(element.findtext("name", "").strip())
        if not name:
            raise UserError(f"{where}: has no <name>")
        difficult = element.findtext("difficult", "0").strip().lower() in {"1", "true"}
        texts = [element.findtext(f"bndbox/{corner}", "nothing") for corner in CORNERS]
        place = f"{where} ({name}), {listing(CORNERS)}"
        left, top, right, bottom = reading.as_numbers(texts, place)
        more = {a.findtext("name"): a.findtext("value") for a in element.iter("attribute")}
        corners = (left - first, top - first, right, bottom)
        corners = reading.turned(corners, 0 if first else more.get("rotation"))  # CVAT's
        ignored = DIFFICULT if difficult else COUNTED
        objects.append((name, Object(corners, -1, where, ignored)))
    size = [tree.findtext(f"size/{side}") or "0" for side in ("width", "height")]
    width, height = reading.as_numbers(size, f"{file}: size")
    return (width, height), objects
