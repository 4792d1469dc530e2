"""Data sets in the formats that people have: what is read from each, and what is refused."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pytest
from conftest import open_splits, refused, turned
from conftest import picture as any_picture
from PIL import Image

from nano_cv.data.formats import outlines
from nano_cv.data.formats.coco import read_coco
from nano_cv.data.formats.folder import read_folder
from nano_cv.data.formats.folder_masks import read_folder_masks
from nano_cv.data.formats.guessing import fitting_formats, hint_at_format
from nano_cv.data.formats.splitting import stable_split, stable_splits
from nano_cv.data.formats.table import read_table
from nano_cv.data.formats.voc import CLASSES, read_voc
from nano_cv.data.formats.yolo import read_yolo
from nano_cv.data.images import IGNORE
from nano_cv.data.pictures import SPLITS, Pictures, open_pictures
from nano_cv.data.targets import COUNTED, CROWD, DIFFICULT, Boxes
from nano_cv.errors import UserError

coco, voc, yolo = (partial(read, task="detection") for read in (read_coco, read_voc, read_yolo))
coco_masks = partial(read_coco, task="segmentation")
folder_masks = partial(read_folder_masks, task="segmentation")
WIDTH, HEIGHT = 64, 32  # powers of two: shares of them are exact
picture = partial(any_picture, width=WIDTH, height=HEIGHT)
NAMES = ["cat", "dog"]
OBJECTS = {  # of the three pictures of each split: class, x1, y1, x2, y2
    "a": [("cat", 0, 0, 16, 8), ("dog", 10.5, 2, 64, 32)],
    "b": [],
    "c": [("dog", 32, 16, 33, 17)],
}
Sets = dict[str, dict[str, list[tuple[Any, ...]]]]


def every_split() -> Sets:
    return {split: {f"{split}_{name}": one for name, one in OBJECTS.items()} for split in SPLITS}


def every_picture() -> Iterator[tuple[str, str, list[tuple[Any, ...]]]]:
    """Split, name and objects."""
    for split, pictures in every_split().items():
        yield from ((split, name, objects) for name, objects in pictures.items())


def mask(file: Path, values: Any) -> None:
    """The values from left to right, as long as they last, and zeros."""
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels.flat[: len(values)] = values
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    image.putpalette(bytes(range(256)) * 3)  # a short one would cut the values
    image.save(file)


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def make_coco(
    root: Path, folder: str = "images", edit: Callable[[dict[str, Any]], object] | None = None
) -> None:
    """Each file as `edit` changes it."""
    for split, pictures in every_split().items():
        categories = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
        content: dict[str, Any] = {"categories": categories, "images": [], "annotations": []}
        for number, (name, objects) in enumerate(pictures.items(), start=100):
            picture(root / folder.format(split=split) / f"{name}.jpg")
            entry = {"id": number, "file_name": f"{name}.jpg", "width": WIDTH, "height": HEIGHT}
            content["images"].append(entry)
            for kind, x1, y1, x2, y2 in objects:
                one = {"id": len(content["annotations"]) + 1, "image_id": number}
                one |= {"category_id": {"cat": 3, "dog": 7}[kind]}
                content["annotations"].append(one | {"bbox": [x1, y1, x2 - x1, y2 - y1]})
        if edit:
            edit(content)
        write(root / "annotations" / f"{split}.json", json.dumps(content))


def make_voc(root: Path) -> None:
    for _, name, objects in every_picture():
        picture(root / "JPEGImages" / f"{name}.jpg")
        write(root / "Annotations" / f"{name}.xml", xml(objects))
    for split, pictures in every_split().items():
        write(root / "ImageSets/Main" / f"{split}.txt", "\n".join(pictures))


def add_voc_masks(root: Path, values: list[int]) -> None:
    for split, names in every_split().items():
        write(root / "ImageSets/Segmentation" / f"{split}.txt", "\n".join(names))
        for name in names:
            mask(root / "SegmentationClass" / f"{name}.png", values)


def xml(objects: list[tuple[Any, ...]], extra: str = "") -> str:
    corners = "<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>"
    inside = "".join(
        f"<object><name>{kind}</name><bndbox>{corners.format(x1 + 1, y1 + 1, x2, y2)}</bndbox>"
        f"{extra}</object>"
        for kind, x1, y1, x2, y2 in objects
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
    return f"<annotation>{size}{inside}</annotation>"


def make_yolo(root: Path) -> None:
    for split, name, objects in every_picture():
        picture(root / "images" / split / f"{name}.jpg")
        rows = [
            f"{NAMES.index(kind)} {(x1 + x2) / 2 / WIDTH} {(y1 + y2) / 2 / HEIGHT} "
            f"{(x2 - x1) / WIDTH} {(y2 - y1) / HEIGHT}"
            for kind, x1, y1, x2, y2 in objects
        ]
        if rows:
            write(root / "labels" / split / f"{name}.txt", "\n".join(rows))
    write(root / "data.yaml", "names: {0: cat, 1: dog}")


def make_masks(root: Path, count: int = 3) -> None:
    for split in SPLITS:
        names = [f"{split}_{number}" for number in range(count)]
        for name in names:
            picture(root / "images" / f"{name}.jpg")
            mask(root / "masks" / f"{name}.png", [0, 1, 255, 2])
        write(root / f"{split}.txt", "\n".join(names))


def refuses(pattern: str, read: Callable[..., object], *given: Any) -> None:
    """Reading is refused, in words that fit the pattern."""
    with pytest.raises(UserError, match=pattern):
        read(*given)


@pytest.fixture
def root(tmp_path: Path, every_message: None) -> Path:
    return tmp_path / "pictures"


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelname != "INFO"]


def same(target: Boxes, boxes: list[list[float]], labels: list[int]) -> bool:
    assert target.boxes.dtype == np.float32 and target.labels.dtype == np.int64
    assert target.boxes.shape == (len(labels), 4) and target.labels.shape == (len(labels),)
    return target.boxes.tolist() == boxes and target.labels.tolist() == labels


FORMATS = {"coco": (coco, make_coco), "voc": (voc, make_voc), "yolo": (yolo, make_yolo)}


@pytest.mark.parametrize("name", FORMATS)
def test_same_boxes_from_every_format(root, name, caplog):
    read, make = FORMATS[name]
    make(root)
    for split, data in read(root).items():
        assert data.classes == NAMES and [file.stem[-1] for file in data.files] == ["a", "b", "c"]
        assert all(file.exists() and split in data.names[0] for file in data.files)
        first, second, third = data.targets
        assert same(first, [[0, 0, 16, 8], [10.5, 2, 64, 32]], [0, 1])
        assert same(second, [], [])
        assert same(third, [[32, 16, 33, 17]], [1])
    assert not warned(caplog)


@pytest.mark.parametrize("kind", [read_coco, read_voc, read_yolo, read_folder_masks])
def test_task_without_targets_is_refused(root, kind):
    refuses(r"has targets for .*, and the task is generation", kind, root, "generation")


OF_NO_END = "".join(f"<!ENTITY l{n} '{f'&l{n - 1};' * 10}'>" for n in range(1, 10))
OF_NO_END = f"<!DOCTYPE a [<!ENTITY l0 'lol'>{OF_NO_END}]><a><object><name>&l9;</name></object></a>"
REFUSED = {  # by format and file: contents, and what is said of them
    "coco annotations/val.json": {
        '{"images": [': "not JSON: .*line 1 column",
        '{"categories": [], "images": [1]}': "images number 0: 'id' is missing",
        "[" * 100_000: "not JSON",
        "\xff\xfe{": "line 1 is not UTF-8",
    },
    "voc Annotations/train_a.xml": {
        "<annotation><object>": "not XML: ",
        "<a><object><bndbox/></object></a>": "object 1: has no <name>",
        xml([("cat", 0, 0, 1, 1), ("dog", 0, 0, "wide", 4)]): r"object 2 \(dog\), .*: 1, 1, wide",
        OF_NO_END: "not XML: limit on input amplification",
    },
    "yolo labels/train/train_a.txt": {
        "0 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1": "line 2: 4 columns; 'class cx cy width height' are 5",
        "cat 0.5 0.5 0.1 0.1": "line 1: numbers belong there, and not: cat, 0.5",
        "0 0.5 0.5 nan 0.1": "line 1: numbers belong there",
        "2 0.5 0.5 0.1 0.1": "line 1: class 2; the classes are 0 to 1",
        "0.5 0.5 0.5 0.1 0.1": "line 1: class 0.5; ",
        "0 32 16 8 8": "line 1: 32 16 8 8: shares of the picture are 0 to 1",
    },
    "yolo data.yaml": {
        "names: {a: cat, b: dog}": "'names' is a list of classes, or a mapping from 0",
        "names: [cat": "not YAML: ",
        "names: []": "no class names",
        "a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b]": "names: list is not text",
        "a: &a [*a]\nnames: [*a]": "not YAML: ",
        "names: " + "[" * 10_000: "not YAML: ",
        "names: [cat, dog]\nnc: 3": "nc is 3, and there are 2 names",
        "names: [cat, dog]\ntrain: [[a]]": "train: a path or a list of paths",
        "names: [cat, dog]\nval: images/val\nvalid: images/val": "'valid': .* given twice",
    },
}


@pytest.mark.parametrize("place", REFUSED)
def test_contents_that_are_refused(root, place):
    name, file = place.split()
    read, make = FORMATS[name]
    make(root)
    for content, message in REFUSED[place].items():
        (root / file).write_bytes(content.encode("latin-1"))
        refuses(rf"{Path(file).name}[:,] {message}", read, root)


def test_pictures_of_another_size_than_stated(root, caplog):
    make_coco(root)
    picture(root / "images/train_b.jpg", width=32, height=16)
    coco(root)
    assert "1 pictures have another size" in caplog.text
    assert "train_b.jpg (stated 64x32, upright 32x16)" in caplog.text


def change(root: Path, key: str, index: int, split: str = "train", **fields: Any) -> None:
    """Change an entry of a COCO file; with None a field is taken out."""
    file = root / "annotations" / f"{split}.json"
    content = json.loads(file.read_text())
    entry = content[key][index] | fields
    content[key][index] = {name: value for name, value in entry.items() if value is not None}
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "folder, layout, val",
    [
        *((one, "annotations/{}.json", "val") for one in ("images", "images/{split}", "{split}")),
        ("{split}", "annotations/instances_{}.json", "valid"),  # as CVAT writes it
        ("{split}", "{}/_annotations.coco.json", "valid"),  # and Roboflow
    ],
)
def test_coco_layouts(root, folder, layout, val):
    make_coco(root, folder)
    if val == "valid":
        (root / "val").rename(root / val)
    for split in SPLITS:
        written = root / layout.format(val if split == "val" else split)
        (root / f"annotations/{split}.json").rename(written)
    assert coco(root)["val"].names[0] == f"{folder.format(split=val)}/val_a.jpg"
    assert coco(root)["val"].classes == coco(root)["train"].classes == ["cat", "dog"]


def test_coco_crowds_and_empty_boxes(root, caplog):
    make_coco(root)
    change(root, "annotations", 0, iscrowd=1)
    change(root, "annotations", 2, bbox=[5, 5, 0, 4])
    # Corners in another order, and numbers of other types, as some programs write them.
    change(root, "annotations", 1, bbox=[9, 9, -4, -6], category_id="7", image_id=100.0)
    first, second, third = coco(root)["train"].targets
    assert [5.0, 3.0, 9.0, 9.0] in [*first.boxes.tolist(), *second.boxes.tolist()]
    assert first.counted.tolist() == [1] and first.ignored.tolist() == [CROWD, COUNTED]
    assert same(third, [], [])
    assert "train.json: 1 boxes of no size were left out" in caplog.text
    assert "train.json: annotation 3" in caplog.text


def test_coco_boxes_in_shares_are_refused_and_copies_left_out(root, caplog):
    make_coco(root, edit=lambda content: content["annotations"].append(content["annotations"][0]))
    assert len(coco(root)["train"].targets[0].labels) == 2
    assert "train.json: 1 copies of a box were left out: " in caplog.text
    for index in range(4):
        change(root, "annotations", index, bbox=[0.25, 0.5, 0.5, 0.25], segmentation=None)
    refuses(r"train\.json: no coordinate is above 1; pixels are needed", coco, root)
    for index in range(4):
        change(root, "annotations", index, bbox=[0, 0, 0, 0])
    assert not any(len(boxes.labels) for boxes in coco(root)["train"].targets)


def test_coco_masks_of_cvats_brush_are_objects(root, caplog):
    outlined_coco(root)
    change(root, "annotations", 6, attributes={"occluded": False})
    assert (coco_masks(root)["train"].mask(0)[:2, 0] == 1).all()
    assert not any(one.ignored.any() for one in coco(root)["train"].targets)
    assert "train.json: 1 masks with iscrowd=1 are taken as single objects" in caplog.text
    assert "val.json: 1 groups of objects (iscrowd) are not learnt" in caplog.text


@pytest.mark.parametrize(
    ("angle", "box"),
    [
        ("90.0", [28, 4, 36, 44]),
        ("to the left", [12, 20, 52, 28]),  # an attribute of one's own
    ],
)
def test_turned_boxes_of_cvat(root, angle, box):
    make_coco(root / "coco")
    given, cvat = float(angle) if angle[-1].isdigit() else angle, {"occluded": False}
    change(
        root / "coco", "annotations", 0, bbox=[12, 20, 40, 8], attributes=cvat | {"rotation": given}
    )
    make_voc(root / "voc")
    attribute = f"<attribute><name>rotation</name><value>{angle}</value></attribute>"
    content = xml([("cat", 11, 19, 52, 28)], f"<attributes>{attribute}</attributes>")
    unknown = "<source><database>Unknown</database></source>"  # as CVAT writes, from 0
    annotate(root / "voc", content.replace("<size>", f"{unknown}<size>"))
    for read in (coco(root / "coco"), voc(root / "voc")):
        assert read["train"].targets[0].boxes[0].tolist() == pytest.approx(box, abs=1e-4)
    change(root / "coco", "annotations", 0, segmentation=[SQUARE])
    assert coco(root / "coco")["train"].targets[0].boxes[0].tolist() == [12, 20, 52, 28]


NORMAL = {"masks": (folder_masks, make_masks), **FORMATS}


@pytest.mark.parametrize("name", NORMAL)
def test_accents_in_either_form(root, name):
    """Pictures as macOS copies them, and the labels as they are typed."""
    read, make = NORMAL[name]
    make(root)
    for file in [file for file in root.rglob("*.*") if file.is_file()]:
        form = "NFD" if file.suffix == ".jpg" else "NFC"
        if file.suffix in (".json", ".txt"):
            write(file, normalize(form, file.read_text().replace("train_", "trainé_")))
        file.rename(file.with_name(normalize(form, file.name.replace("train_", "trainé_"))))
    data = read(root)["train"]
    assert len(data) == 3 and all("e\u0301_" in file.name for file in data.files)
    assert name == "masks" or len(data.targets[0].labels) == 2


@pytest.mark.parametrize("name", NORMAL)
def test_pictures_that_nothing_names(root, name, caplog):
    read, make = NORMAL[name]
    make(root)
    for more in ("more.jpg", ".hidden.jpg"):
        picture(root / ("JPEGImages" if name == "voc" else "images") / more)
    read(root)
    (said,) = warned(caplog)
    assert ("no split: more.jpg" if name == "yolo" else "more.jpg") in said
    assert name == "yolo" or "1 pictures are in no list" in said
    caplog.clear()
    if name == "voc":
        read(root, partly=True)
        assert not warned(caplog)


def test_coco_classes_are_those_of_train(root):
    make_coco(root)
    for index, number in ((0, 3), (1, 7)):  # another split may count them otherwise
        change(root, "categories", index, "val", id=number)
    data = coco(root)["val"]
    assert data.classes == NAMES and data.targets[0].labels.tolist() == [1, 0]
    change(root, "categories", 0, "test", name="cats")
    refuses(r"test.json: category 7: 'cats' .*did you mean 'cat'\?", coco, root)


@pytest.mark.parametrize(
    "key, fields, message",
    [
        ("annotations", {"image_id": 5}, r"annotation 2: there is no image 5"),
        ("annotations", {"category_id": 4}, r"annotation 2: there is no category 4"),
        ("annotations", {"bbox": [1, 2, 3]}, r"annotation 2: a bbox is \[x, y, width, height\]"),
        ("annotations", {"bbox": [1, 2, 3, float("nan")]}, r"annotation 2: numbers belong .* nan"),
        ("annotations", {"bbox": None}, r"annotation 2: 'bbox' is missing"),
        ("images", {"id": 100}, r"two images of one id"),
        ("images", {"file_name": "val_b.jpg"}, r"1 pictures are missing: val_b\.jpg; .*train"),
        ("categories", {"name": "dog"}, r"the same class twice: dog"),
    ],
)
def test_coco_mistakes(root, key, fields, message):
    make_coco(root, "{split}")
    change(root, key, 1, **fields)
    refuses(rf"annotations/train\.json.*: {message}", coco, root)


def pool(root: Path, file: str, folder: str = "images") -> dict[str, Any]:
    """The training pictures of `make_coco` alone, in one file; its content."""
    make_coco(root, folder)
    text = (root / "annotations/train.json").read_text()
    shutil.rmtree(root / "annotations")
    write(root / file, text)
    return json.loads(text)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "file, folder",
    [
        ("annotations/instances_default.json", "images"),
        ("annotations/instances_Train.json", "images/Train"),
        ("result.json", "images"),
        ("labels.json", "data"),
        ("train/annotations.json", "train"),
        ("train.json", ""),
        ("train/_annotations.coco.json", "train"),
    ],
)
def test_coco_of_one_file_is_split_by_the_hash(root, file, folder, caplog):
    content = pool(root, file, folder)
    found = [name for one in coco(root).values() for name in one.names]
    assert sorted(found) == [str(Path(folder, one["file_name"])) for one in content["images"]]
    assert all(len(coco(root)[split]) == 1 for split in SPLITS)
    assert "split by the hash of the file names: 1 train, 1 val, 1 test" in caplog.text
    assert f"labels from {root / file}" in caplog.text
    assert coco(root / file)["val"].classes == ["cat", "dog"], "the file itself"


def write_coco(file: Path, names: list[str], shown: int) -> None:
    """A cat in the first of the pictures, as many as shown."""
    boxes = [{"image_id": n, "category_id": 1, "bbox": [0, 0, 16, 8]} for n in range(shown)]
    content: dict[str, Any] = {"categories": [{"id": 1, "name": "cat"}], "annotations": boxes}
    content["images"] = [{"id": n, "file_name": name} for n, name in enumerate(names)]
    write(file, json.dumps(content))


@pytest.mark.parametrize("read", [coco, voc], ids=["coco", "voc"])
def test_splits_that_only_the_folders_of_the_pictures_name(root, read, caplog):
    """Not by the hash: then pictures of a person's own test split would be trained on."""

    def read_set(*names: str) -> dict[str, Pictures]:
        for name in names:
            picture(root / f"images/{name}.jpg")
            if read is voc:
                write(root / f"annotations/{name}.xml", xml([("cat", 0, 0, 16, 8)]))
        if read is coco:
            files = [f"{name}.jpg" for name in names]
            write_coco(root / "annotations/instances.json", files, len(names))
        return read(root)

    names = [*(f"train/{n}" for n in range(6)), "test/6", "test/7", "test/8"]
    splits = read_set(*names)
    assert {file.parent.name for file in splits["test"].files} == {"test"}
    assert len(splits["test"]) == 3 and len(splits["train"]) + len(splits["val"]) == 6
    assert "the folders of the pictures are taken as splits: test, train" in caplog.text
    read_set(*names, "9")
    assert "folders are named after test, train, but are not taken as splits" in caplog.text


@pytest.mark.parametrize("lists", ["VOC2012/ImageSets/Main", "ImageSets/Main", "ImageSets", "."])
def test_voc_lists_wherever_they_lie(root, caplog, lists):
    """One folder too high, as VOCdevkit unpacks; or beside `images/`: the test list counts."""
    inside = root / "VOC2012" if "2012" in lists else root
    for number in range(9):
        picture(inside / "JPEGImages" / f"{number}.jpg")
        write(inside / "Annotations" / f"{number}.xml", xml([("cat", 0, 0, 16, 8)]))
    for split, numbers in (("train", "01234"), ("val", "56"), ("test", "78")):
        write(root / lists / f"{split}.txt", "\n".join(numbers))
    if lists == ".":
        (root / "JPEGImages").rename(root / "images")
    assert [file.stem for file in voc(root)["test"].files] == ["7", "8"]
    if inside != root:
        shutil.copytree(inside, root / "VOC2007")
        refuses("VOC2007, .*VOC2012: each could be the set", voc, root)


def test_yolo_splits_in_folders_further_down_or_in_capitals(root):
    for place in ("data/images/{}/{}", "Images/{}/{}"):
        for split, name, objects in every_picture():
            picture(root / place.format(split, f"{name}.jpg"))
            rows = [f"{NAMES.index(kind)} .5 .5 .5 .5" for kind, *_ in objects]
            labels = place.replace("images", "labels").replace("Images", "Labels")
            write(root / labels.format(split, f"{name}.txt"), "\n".join(rows))
        write(root / "classes.txt", "cat\ndog")
        splits = yolo(root)
        assert {file.parent.name for file in splits["test"].files} == {"test"}
        assert {file.parent.name for file in splits["train"].files} == {"train"}
        shutil.rmtree(root)


def test_voc_of_a_tree_for_each_split_and_a_stray_text(root):
    """Not the one year of a VOCdevkit; and `train.txt` is the log of a training."""
    for split in SPLITS:
        for number in range(2):
            picture(root / split / "JPEGImages" / f"{split}{number}.jpg")
            write(root / split / "Annotations" / f"{split}{number}.xml", xml([("cat", 0, 0, 9, 9)]))
        write(root / split / "ImageSets/Main/all.txt", f"{split}0")
    write(root / "train.txt", "epoch 1: loss 0.5")
    assert [len(part) for part in voc(root).values()] == [2, 2, 2]


def test_folders_named_after_splits_that_do_not_count(root, caplog):
    """A list goes before folders; and without `train` there would be nothing to learn from."""
    for name in ("train2007/a", "val2007/b", "val2007/c"):
        picture(root / f"JPEGImages/{name}.jpg")
        write(root / f"Annotations/{name}.xml", xml([("cat", 0, 0, 16, 8)]))
    write(root / "ImageSets/Main/train.txt", "train2007/a\nval2007/b\nval2007/c")
    assert {file.stem for part in voc(root).values() for file in part.files} == {"a", "b", "c"}
    shutil.rmtree(root / "ImageSets")
    (root / "JPEGImages/train2007").rename(root / "JPEGImages/test2007")
    (root / "Annotations/train2007").rename(root / "Annotations/test2007")
    assert all(len(part) for part in voc(root).values())
    assert "taken as splits" not in caplog.text


def test_every_split_has_objects(root):
    """Half of the pictures show nothing; by the hash alone, `val` would have one, without any."""
    names = [f"{number}.jpg" for number in range(400) if stable_split(f"{number}.jpg") != "val"][:9]
    names += [next(f"{n}.jpg" for n in range(400) if stable_split(f"{n}.jpg") == "val")]
    for name in names:
        picture(root / "images" / name)
    write_coco(root / "annotations/all.json", names, 5)
    for part in coco(root).values():
        assert any(boxes.counted.size for boxes in part.targets)


def test_coco_itself(root, caplog):
    make_coco(root, "{split}")
    for split in ("train", "val"):
        (root / split).rename(root / f"{split}2017")
        file = root / f"annotations/{split}.json"
        for kind in ("captions", "person_keypoints"):
            write(file.with_name(f"{kind}_{split}2017.json"), file.read_text())
        file.rename(file.with_name(f"instances_{split}2017.json"))
    (root / "annotations/test.json").rename(root / "annotations/image_info_test-dev2017.json")
    found = {split: one.names for split, one in coco(root).items()}
    assert found["val"][0] == "val2017/val_a.jpg"
    assert all(name.startswith("train2017/") for name in found["train"] + found["test"])
    assert "split by the hash of the file names: 1 train, 2 test" in caplog.text
    assert "passed over: " in caplog.text and "captions_train2017.json" in caplog.text
    assert not [one for one in caplog.records if one.levelname == "WARNING"]
    more = root / "annotations/instances_default.json"  # of tasks in CVAT without a subset
    write(more, (root / "annotations/instances_val2017.json").read_text())
    coco(root)
    (said,) = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert "other JSON files were passed over: " in said and str(more) in said


def test_coco_files_that_are_missing_or_of_two_meanings(root):
    make_coco(root)
    (root / "annotations/train.json").unlink()
    refuses(r"train\.json: cannot be read: .*val\.json", coco, root)
    pool(root, "result.json")
    write(root / "labels.json", (root / "result.json").read_text())
    write(root / "notes.json", "[]")
    refuses(r"labels\.json, .*result\.json: each could be the labels", coco, root)
    for name in ("a_train.json", "b_train.json"):
        write(root / name, (root / "result.json").read_text())
    refuses(r"b_train\.json: each could be the split 'train'", coco, root)


def test_coco_pictures_of_another_machine(root, caplog):
    content = pool(root, "result.json")
    names = ["..\\..\\upload\\1\\train_a.jpg", "images/train_b.jpg", f"{root}/images/train_c.jpg"]
    for one, name in zip(content["images"], names, strict=True):
        one["file_name"] = name
    write(root / "result.json", json.dumps(content))
    found = {name for one in coco(root).values() for name in one.names}
    assert found == {f"images/train_{name}.jpg" for name in "abc"}
    assert "found by the end of their paths" in caplog.text
    for folder in ("x", "y"):
        picture(root / folder / "train_a.jpg")
    (root / "images/train_a.jpg").unlink()
    refuses(r"train_a\.jpg' is not there, and several pictures fit", coco, root)


def test_coco_category_above_others_is_no_class(root, caplog):
    def group(content: dict[str, Any]) -> None:
        every = [*content["categories"], {"id": 90, "name": "owl"}]
        above = {"id": 0, "name": "animals", "supercategory": "none"}
        content["categories"] = [above, *(one | {"supercategory": "animals"} for one in every)]

    make_coco(root, edit=group)
    splits, _ = open_splits(read_coco, root, "detection", 32, None, "stretch")
    assert {tuple(one.pictures.classes) for one in splits.values()} == {("cat", "dog", "owl")}
    assert "stands above other categories: animals\n" in caplog.text
    assert "classes without objects, kept all the same: owl" in caplog.text
    assert splits["test"].pictures.targets[0].labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    "outline, box",
    [
        ([[3, 4, 9, 4, 9, 8], [20, 1, 30, 1, 30, 2]], [3, 1, 30, 8]),
        ({"size": [32, 64], "counts": [33, 2, 30, 2, 1981]}, [1, 1, 3, 3]),
        ({"size": [32, 64], "counts": "U:4l000000000000000000k[1"}, [10, 5, 20, 9]),
        ({"size": [32], "counts": "x"}, None),
        ([[3, 4, 9]], None),
        ({"size": [32, 64], "counts": [1]}, None),
        ({"size": [32, 64], "counts": "o" * 99 + "0"}, None),
    ],
)
def test_coco_boxes_around_outlines(root, outline, box):
    make_coco(root)
    change(root, "annotations", 0, bbox=None, segmentation=outline)
    if box:
        assert coco(root)["train"].targets[0].boxes[0].tolist() == box
    else:
        refuses(r"train\.json: annotation 1: .*segmentation", coco, root)


def annotate(root: Path, text: str) -> None:
    write(root / "Annotations/train_a.xml", text)


def test_voc_counts_from_one(root):
    make_voc(root)
    box = "<xmin>1</xmin><ymin>2</ymin><xmax>10.5</xmax><ymax>32</ymax>"
    inside = f"<object><name> cat </name><bndbox>{box}</bndbox></object>"
    annotate(root, f'<a xmlns="http://x.org/v">{inside}</a>')
    assert same(voc(root)["train"].targets[0], [[0, 1, 10.5, 32]], [0])
    for name in ("unknown\n", "MyDatabase"):  # of labelImg and Label Studio, which do not
        annotate(root, f"<a><source><database> {name}</database></source>{inside}</a>")
        assert same(voc(root)["train"].targets[0], [[1, 2, 10.5, 32]], [0])


def test_voc_classes_and_difficult_objects(root, caplog):
    make_voc(root)
    annotate(root, xml([("ant", 0, 0, 8, 8)]))
    write(root / "Annotations/test_a.xml", xml([("zebra", 0, 0, 8, 8)], "<difficult>1</difficult>"))
    data = voc(root)["val"]
    assert data.classes == ["ant", "cat", "dog"] and data.targets[0].labels.tolist() == [1, 2]
    assert same(voc(root)["test"].targets[0], [], []), "a class that is nowhere else is none"
    assert "left out: classes of which every object is difficult: zebra" in caplog.text
    write(root / "Annotations/test_a.xml", xml([("dog", 0, 0, 8, 8)], "<difficult>1</difficult>"))
    (target,) = voc(root)["test"].targets[:1]
    assert same(target, [[0, 0, 8, 8]], [2]) and target.ignored.tolist() == [DIFFICULT]
    write(root / "classes.txt", "background\ndog\ncat\nant\n")
    data = voc(root)["val"]
    assert data.classes == ["dog", "cat", "ant"] and data.targets[0].labels.tolist() == [1, 0]
    write(root / "classes.txt", "dog\ncats\n")
    refuses(r"train_a\.xml: object 1: 'ant' .*did you mean 'cats'\?", voc, root)


def test_voc_lists(root):
    make_voc(root)
    names = root / "ImageSets/Main/train.txt"
    write(names, "train_c -1\n\ntrain_a.jpg  1\n")
    assert [file.stem for file in voc(root)["train"].files] == ["train_c", "train_a"]
    write(names, "train_a\ntrain_x\n")
    refuses(r"train\.txt: 1 pictures are not in .*Images: train_x", voc, root)
    write(names, "train_a\ntrain_a.jpg\n")
    refuses(r"train\.txt: names a picture twice: train_a", voc, root)
    names.unlink()
    refuses(r"has test, val, and no 'train' to learn from", voc, root)
    picture(root / "JPEGImages/train_a.png")
    refuses(r"train_a\.png: has the name of train_a\.jpg", voc, root)
    refuses(r"elsewhere: no such folder", voc, root / "elsewhere")


@pytest.mark.parametrize("pictures, labels", [("", ""), ("images", "annotations")])
@pytest.mark.parametrize("written", ["{split}", ""])
def test_voc_as_labelimg_and_roboflow_leave_it(root, written, pictures, labels, caplog):
    splits = every_split() if written else {"train": every_split()["train"]}
    for split, some in splits.items():
        folder = root / written.format(split="valid" if split == "val" else split)
        for name, objects in some.items():
            picture(folder / pictures / f"{name}.jpg")
            write(folder / labels / f"{name}.xml", xml(objects))
    picture(root / "more/a.jpg")
    if not written:
        shutil.rmtree(root / "more")
    found = voc(root)
    assert ("passed over, for it is no split: more\n" in caplog.text) == bool(written)
    files = {file.stem: split for split, data in found.items() for file in data.files}
    if written:
        assert files == {name: split for split, some in splits.items() for name in some}
        assert same(found["val"].targets[0], [[0, 0, 16, 8], [10.5, 2, 64, 32]], [0, 1])
    else:
        assert files.keys() == set(splits["train"]) and set(files.values()) == set(SPLITS)
    assert {tuple(data.classes) for data in found.values()} == {("cat", "dog")}


def test_voc_as_its_archives_unpack_it_and_beside_an_empty_split(root):
    make_voc(root / "VOCdevkit/VOC2007")
    assert voc(root)["val"].names[0] == "JPEGImages/val_a.jpg"
    (root / "VOCdevkit/VOC2007").rename(root.parent / "set")
    (root.parent / "set/training").mkdir()  # as in the raccoon set, where it holds no pictures
    shutil.rmtree(root.parent / "set/ImageSets")
    assert sum(map(len, voc(root.parent / "set").values())) == 9


def test_voc_without_lists_and_without_labels(root, caplog):
    make_voc(root)
    shutil.rmtree(root / "ImageSets")
    (root / "Annotations/val_a.xml").unlink()
    (root / "JPEGImages/test_b.jpg").unlink()
    found = [file.stem for one in voc(root).values() for file in one.files]
    assert sorted(found) == ["test_a", "test_c", "train_a", "train_b", "train_c", "val_b", "val_c"]
    assert "1 pictures without a label were left out: val_a.jpg" in caplog.text
    assert "1 label files without a picture: test_b.xml" in caplog.text
    shutil.rmtree(root / "Annotations")
    refuses(r"pictures: no label NAME\.xml for any of the 8 pict", voc, root)


def test_voc_masks(root, caplog):
    make_voc(root)
    add_voc_masks(root, [0, 15, 255])
    data = read_voc(root, "segmentation")["val"]
    assert data.classes == CLASSES and data.classes[15] == "person" and len(CLASSES) == 21
    assert data.targets[1] == root / "SegmentationClass/val_b.png"
    assert "the classes are those of VOC; to name others, write classes.txt" in caplog.text
    for name in ("class_names.txt", "classes.txt"):  # labelme's, and ours
        write(root / name, f"_background_\n{name}")
        assert read_voc(root, "segmentation")["val"].classes == ["_background_", name]


def relabel(root: Path, *rows: str) -> None:
    write(root / "labels/train/train_a.txt", "\n".join(rows))


def test_yolo_centres_and_polygons(root):
    make_yolo(root)
    aslant = "1 0.5 0.25 0.75 0.5 0.5 0.75 0.25 0.5"
    relabel(root, "1 0.5 0.5 0.25 0.5", "", "0 0.25 0.5 0.75 0.25 0.5 1.0", aslant)
    expected = [[24, 8, 40, 24], [16, 8, 48, 32], [16, 8, 48, 24]]
    assert same(yolo(root)["train"].targets[0], expected, [1, 0, 1])
    Image.new("RGB", (64, 32)).save(root / "images/train/train_a.jpg", exif=turned())
    relabel(root, "0 0.5 0.5 1 1")  # shares of the upright picture
    assert same(yolo(root)["train"].targets[0], [[0, 0, 32, 64]], [0])


def test_yolo_in_linked_folders_and_capital_letters(root, tmp_path):
    make_yolo(root)
    (root / "labels/train/train_a.txt").rename(root / "labels/train/train_a.TXT")
    for kind in ("images", "labels"):
        (root / kind / "train").rename(tmp_path / kind)
        (root / kind / "train").mkdir()
        (root / kind / "train/batch").symlink_to(tmp_path / kind)
    data = yolo(root)["train"]
    assert data.names[0] == "images/train/batch/train_a.jpg"
    assert same(data.targets[0], [[0, 0, 16, 8], [10.5, 2, 64, 32]], [0, 1])


def test_yolo_class_names(root, caplog):
    make_yolo(root)
    for names, classes in {
        "[07, 7]\nmade: 2024-02-30": ["07", "7"],
        "[no, 12:30]": ["no", "12:30"],
        "{'0': cat, '1': dog, 3: owl}": ["cat", "dog", "class 2", "owl"],
    }.items():
        write(root / "data.yaml", f"names: {names}")
        assert yolo(root)["train"].classes == classes
    assert "names: no name for class 2" in caplog.text
    (root / "data.yaml").unlink()
    refuses(r"data\.yaml: not there, nor classes\.txt, .*obj\.names, so the classes", yolo, root)
    write(root / "classes.txt", "cat\ndog\n")
    write(root / "obj.names", "cat\ndog")
    assert yolo(root)["train"].classes == NAMES
    write(root / "obj.names", "1 dog\n2 cat")
    refuses("each could be the names of the classes, which differ", yolo, root)
    (root / "classes.txt").unlink()
    assert yolo(root)["train"].classes == ["1 dog", "2 cat"]
    assert "obj.names: numbered from 1, yet labels begin with 0: 0 is '1 dog'" in caplog.text


def test_yolo_empty_boxes_and_lonely_files(root, caplog):
    make_yolo(root)
    relabel(root, "0 0.5 0.5 0 0.1")
    write(root / "labels/train/classes.txt", "cat\ndog")
    write(root / "labels/train/train_x.txt", "")
    assert same(yolo(root)["train"].targets[0], [], [])
    assert "1 boxes of no size were left out" in caplog.text
    assert "'train': 1 pictures without a text file show no object" in caplog.text
    assert "train_a.txt, line 1" in caplog.text
    assert "1 label files without a picture: train_x.txt" in caplog.text
    (root / "images/test").rename(root / "images/tset")
    yolo(root)
    assert "images: passed over, for it is no split: tset" in caplog.text
    (root / "images/tset").rename(root / "images/test")
    for split in ("test", "val"):
        for file in (root / "labels" / split).iterdir():
            file.unlink()
        if split == "test":  # as of COCO, whose labels are kept back
            assert len(yolo(root)["test"]) == 1
            assert "images/test: passed over, for it has no text files" in caplog.text
    refuses(r"images/val: no text file for any of the 3 pictures", yolo, root)


def yaml(root: Path, text: str, name: str = "data.yaml") -> None:
    write(root / name, f"{text}\nnames: [cat, dog]")


def as_roboflow(root: Path, *kept: str) -> None:
    """`train/images`, `train/labels` and so on, of these splits."""
    make_yolo(root)
    for split in SPLITS:
        for kind in ("images", "labels"):
            (root / split).mkdir(exist_ok=True)
            (root / kind / split).rename(root / split / kind)
        if split not in kept:
            shutil.rmtree(root / split)


@pytest.mark.parametrize(
    "entries",
    [
        "train: images/train\nval: images/val",
        "path: .\ntrain: images/train\nval: [images/val]\ntest:",
        "path: ../gone\ntrain: ./images/train/\nvalid: images/val\ntest: ''",
        "path: /content/pictures\ntrain: 'images\\train'\nval: 'C:\\sets\\images\\val'",
        "train: ../images/train\nval: ../images/val\ntest: ../images/gone",
        "train: train.txt\nval: lists/valid.txt\ntest: empty.txt",
    ],
    ids=["folders", "null", "path", "Windows", "Roboflow", "lists"],
)
def test_yolo_follows_its_yaml(root, entries, caplog):
    make_yolo(root)
    shutil.rmtree(root / "images/test")
    names = [f"./images/train/train_{name}.jpg" for name in "abc"]
    write(root / "train.txt", "\n".join(names))
    write(root / "lists/valid.txt", "C:\\x\\images\\val\\val_a.jpg\r\nimages/val/val_c.jpg\r\n")
    write(root / "empty.txt", "")
    yaml(root, entries)
    found = {split: one.names for split, one in yolo(root).items()}
    assert found["val"][0] == "images/val/val_a.jpg"
    assert len(found["train"]) == 2 and len(found["test"]) == 1
    assert {Path(name).parent.name for name in found["train"] + found["test"]} == {"train"}
    assert "split by the hash of the file names: 2 train, 1 test" in caplog.text


def test_yolo_splits_that_lie_elsewhere(root, caplog):
    make_yolo(root)
    yaml(root, "train: images/train\nval: images/val\ntest: null")
    yolo(root)
    assert f"passed over, for it has no entry for these splits: {root}/images/test" in caplog.text
    yaml(root, "train: /content/train/x\nval: images/val")
    (root / "x").mkdir()  # another folder
    refuses(r"train: /content/train/x: no such file or folder", yolo, root)


def test_yolo_of_train_alone_and_of_one_pool(root):
    as_roboflow(root, "train")
    for file in (root / "train/images").iterdir():
        picture(file.with_stem(f"{file.stem}_2"))
    found = {split: set(yolo(root)[split].names) for split in SPLITS}
    assert sum(map(len, found.values())) == 6 == len(set.union(*found.values()))
    assert all(found.values())
    (root / "train/images").rename(root / "images")
    (root / "train/labels").rename(root / "labels")
    (root / "train").rmdir()
    pool = {name for one in yolo(root).values() for name in one.names}
    assert pool == {f"images/train_{name}{end}.jpg" for name in "abc" for end in ("", "_2")}


@pytest.mark.parametrize(
    ("folder", "lists", "splits"),
    [("data/obj", "data/{}.txt", SPLITS), ("obj_Train_data", "Train.txt", ("train",))],
    ids=["darknet", "CVAT"],
)
def test_yolo_in_one_folder_with_lists(root, folder, lists, splits, caplog):
    make_yolo(root)
    (root / "data.yaml").unlink()
    (root / folder).mkdir(parents=True)
    for split in splits:
        for file in root.glob(f"*/{split}/*"):
            file.rename(root / folder / file.name)
        names = [f"data/{Path(folder).name}/{split}_{name}.jpg" for name in "abc"]
        write(root / lists.format(split), "\n".join(names))
    for kind in ("images", "labels"):
        shutil.rmtree(root / kind)
    write((root / lists).with_name("obj.names"), "cat\ndog\n")
    found = yolo(root)
    assert "passed over" not in caplog.text and found["train"].classes == NAMES
    assert [len(found[split]) for split in SPLITS] == [len(splits)] * 3
    shutil.copy(root / lists.format(splits[0]), root / "default.txt")
    yolo(root)
    assert "default.txt: its pictures are of no subset in CVAT" in caplog.text


def test_yolo_where_two_things_are_meant(root):
    as_roboflow(root, *SPLITS)
    (root / "data.yaml").unlink()
    for name in ("cells.yaml", "birds.yaml"):
        yaml(root, "", name)
    refuses(r"birds\.yaml, .*cells\.yaml: several .*data\.root=FILE", yolo, root)
    assert len(yolo(root / "birds.yaml")["train"]) == 3
    shutil.rmtree(root / "train")
    refuses(r"has test, val, and no 'train' to learn from", yolo, root / "cells.yaml")


def test_yolo_key_points(root):
    make_yolo(root)
    relabel(root, "1 0.5 0.5 0.25 0.5 0.1 0.9 2 0.9 0.1 0", "0 0.5 0.5 0.25 0.5")
    yaml(root, "kpt_shape: [2, 3]")
    for split in SPLITS:
        write(root / f"labels/{split}/{split}_c.txt", "")
    assert same(yolo(root)["train"].targets[0], [[24, 8, 40, 24]] * 2, [1, 0])


def test_masks_by_lists(root):
    make_masks(root)
    picture(root / "images/not_labelled_yet.jpg")
    write(root / "val.txt", "val_2\nval_0.jpg\n")
    data = folder_masks(root)["val"]
    assert data.names == ["images/val_2.jpg", "images/val_0.jpg"]
    assert data.targets == [root / "masks/val_2.png", root / "masks/val_0.png"]
    assert data.classes == ["class 0", "class 1", "class 2"], "255 is no class"
    write(root / "classes.txt", "0 background\n1 leaf\n2 big blossom\n")
    assert folder_masks(root)["val"].classes == ["background", "leaf", "big blossom"]


def test_stable_split_is_the_same_everywhere():
    golden = ["train", "train", "test", "test", "val", "test", "train", "train"]
    assert [stable_split(f"{number}.jpg") for number in range(8)] == golden
    shipped = ["100080576_f52e8ee070_n.jpg", "10043234166_e6dd915111_n.jpg"]  # of flower_photos
    assert [stable_split(name) for name in shipped] == ["train", "test"]
    counts = Counter(stable_split(f"plant{number}.png") for number in range(10_000))
    shares = {split: round(count / 10_000, 2) for split, count in counts.items()}
    assert shares == pytest.approx({"train": 0.7, "val": 0.15, "test": 0.15}, abs=0.011)


def test_every_split_has_pictures_of_each_class():
    names = [f"{kind}/{number}.jpg" for kind in ("lynx", "owl", "fox") for number in range(40)]
    names = [*names[:40], *names[40:43], *names[80:82]]
    labels = [(name.split("/")[0],) for name in names]
    splits = stable_splits(names, labels)
    found = Counter((kind, split) for (kind,), split in zip(labels, splits, strict=True))
    assert [found["owl", split] for split in SPLITS] == [1, 1, 1]
    assert [found["fox", split] for split in SPLITS] == [1, 1, 0]
    lynx = {name: one for name, one in zip(names, splits, strict=True) if name < "owl"}
    assert all(stable_split(name) == split for name, split in lynx.items() if "lynx" in name)
    again = stable_splits(names[::-1], labels[::-1])
    assert again[::-1] == splits, "whatever the order"
    for few in range(3, 9):
        found = Counter(stable_splits(names[:few]))
        assert set(found) == set(SPLITS) and found["train"] >= few - 4
    some = Counter(stable_splits([f"{n}.jpg" for n in range(2, 8)]))  # three of 6 hash to `test`
    assert some == {"train": 4, "val": 1, "test": 1}
    lucky = [f"{n}.jpg" for n in range(200) if stable_split(f"{n}.jpg") == "train"][:40]
    assert Counter(stable_splits(lucky)) == {"train": 34, "val": 3, "test": 3}
    assert "val" not in stable_splits(names, labels, ["test"])
    assert stable_split("e\u0301.jpg") == stable_split("\u00e9.jpg"), "as macOS writes it"


def test_copies_of_roboflow_stay_in_one_split(root):
    for number in range(24):  # four pictures of each class, three times each
        picture(root / f"{'ab'[number % 2]}/{number // 6}_jpg.rf.{number:032x}.jpg")
    splits = read_folder(root, "classification")
    origins = [{name.partition("_")[0] for name in splits[split].names} for split in SPLITS]
    assert all(origins) and sum(map(len, origins)) == 8


def test_masks_in_folders_of_splits(root, caplog):
    names = [f"{split}/{split}_{number}" for split in SPLITS for number in range(3)]
    for name in (*names, "extra/more", "more"):
        picture(root / f"images/{name}.jpg")
        mask(root / f"masks/{name}.png", [1])
    assert folder_masks(root)["val"].names == [f"images/val/val_{n}.jpg" for n in range(3)]
    assert "images: passed over, for it is no split: extra, more.jpg" in caplog.text


@pytest.mark.parametrize(
    ("picture_at", "mask_at", "said"),
    [
        ("{split}/images/{name}.jpg", "{split}/masks/{name}.png", ""),
        ("{split}/{name}.jpg", "{split}/{name}_mask.png", "images in train/, masks in train/"),
        ("Images/{split}/{name}.jpg", "Labels/{split}/{name}.png", "images in Images/"),
        ("{split}/{name}.jpg", "{split}_labels/{name}_L.png", "masks in train_labels/"),
        ("{split}/{name}_sat.jpg", "{split}/{name}_mask.png", "is taken to be"),
        ("images/{split}/img_{name}.jpg", "masks/{split}/mask_{name}.png", "is taken to be"),
        ("images/{split}/{name}_image.jpg", "masks/{split}/{name}_mask.png", "is taken to be"),
    ],
)
def test_masks_as_people_name_them(root, caplog, picture_at, mask_at, said):
    for split in SPLITS:
        for number in range(2):
            place = {"split": split, "name": f"{split}{number}"}
            picture(root / picture_at.format(**place))
            mask(root / mask_at.format(**place), [0, 1, 255, number])
        if "_mask" in mask_at and "masks" not in mask_at:  # as Roboflow writes them
            table = "Pixel Value, Class\n0, background\n1, road\n"
            write(root / split / "_classes.csv", table)
    splits = folder_masks(root)
    for split, part in splits.items():
        pairs = zip(part.files, part.targets, strict=True)
        stems = [
            [re.sub("_|img|image|mask|sat|L", "", file.stem) for file in pair] for pair in pairs
        ]
        assert stems == [[f"{split}0", f"{split}0"], [f"{split}1", f"{split}1"]]
    named = ["background", "road"] if (root / "train/_classes.csv").exists() else None
    assert splits["train"].classes == (named or ["class 0", "class 1"])
    assert said in caplog.text
    if named:
        write(root / "test/_classes.csv", "Pixel Value, Class\n0, background\n1, lane\n")
        refuses("the names of the classes, which differ", folder_masks, root)


def test_what_a_set_of_masks_leaves_out_is_named(root, caplog):
    """A test without masks, as competitions have; other drawings; a split of another name."""
    for split in ("train", "test", "dev"):
        for number in range(6):
            picture(root / f"{split}/images/{number}.jpg")
    for number in range(6):
        mask(root / f"train/masks/{number}.png", [0, 1])
        mask(root / f"train/1st_manual/{number}.png", [0, 1])
    splits = folder_masks(root)
    assert sum(map(len, splits.values())) == 6
    assert f"{root}/test: passed over, for it has no masks" in caplog.text
    assert f"{root}/train: folders of pictures that are passed over: 1st_manual" in caplog.text
    assert f"{root}: passed over, for it is no split: dev" in caplog.text
    make_masks(root / "whole")
    shutil.copytree(root / "whole/masks", root / "whole/1st_manual")
    folder_masks(root / "whole")
    assert f"{root}/whole: folders of pictures that are passed over: 1st_manual" in caplog.text


def test_lists_of_masks_as_cvat_writes_them(root):
    """With the paths of another machine in one of them, and the folder of the masks after it."""
    make_masks(root)
    (root / "images").rename(root / "JPEGImages")
    (root / "masks").rename(root / "SegmentationClass")
    (root / "Annotations").mkdir()
    for split in SPLITS:
        (root / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
        (root / f"{split}.txt").rename(root / f"ImageSets/Segmentation/{split}.txt")
    lines = [f"/old/set/images/test_{n}.jpg /old/setannot/test_{n}.png" for n in (2, 0)]
    write(root / "ImageSets/Segmentation/test.txt", "\n".join(lines))
    assert [file.stem for file in folder_masks(root)["test"].files] == ["test_2", "test_0"]


def test_masks_without_pictures_and_the_reverse(root):
    make_masks(root)
    (root / "masks").rename(root / "pngs")
    refuses("masks: no such folder, .*beside it there is: images, pngs", folder_masks, root)
    (root / "pngs").rename(root / "masks")
    for file in ("images/val_0.jpg", "masks/val_1.png"):
        (root / file).unlink()
    write(root / "val.txt", "val_1\nval_2")
    refuses(r"val_1\.jpg has no mask; a mask is masks/NAME\.png", folder_masks, root)
    for split in SPLITS:
        (root / f"{split}.txt").unlink()
    refuses(r"val_0\.png has no picture, .*val_1\.jpg has no mask", folder_masks, root)


SQUARE = [10, 4, 30, 4, 30, 24, 10, 24]
INNER = [16, 8, 24, 8, 24, 16, 16, 16]


def outlined_coco(root: Path) -> None:
    """In each picture a dog and a smaller cat on it; and in the first a group of cats."""

    def outline(content: dict[str, Any]) -> None:
        image = [one["id"] for one in content["images"]]
        content["annotations"] = [
            {"id": 10 * one + kind, "image_id": one, "category_id": kind, "segmentation": [shape]}
            for one in image
            for kind, shape in ((3, INNER), (7, SQUARE))
        ]
        runs = {"size": [HEIGHT, WIDTH], "counts": [0, 2, HEIGHT * WIDTH - 2]}
        crowd = {"id": 1, "image_id": image[0], "category_id": 3, "iscrowd": 1}
        content["annotations"].append(crowd | {"segmentation": runs})

    make_coco(root, edit=outline)


def outlined_yolo(root: Path) -> None:
    make_yolo(root)
    for file in root.glob("images/*/*.jpg"):
        rows = []
        for kind, shape in ((0, INNER), (1, SQUARE)):
            shares = [str(at / (WIDTH, HEIGHT)[n % 2]) for n, at in enumerate(shape)]
            rows.append(" ".join([str(kind), *shares]))
        write(root / "labels" / file.parent.name / f"{file.stem}.txt", "\n".join(rows))


@pytest.mark.parametrize(
    "read, make", [(read_coco, outlined_coco), (read_yolo, outlined_yolo)], ids=["coco", "yolo"]
)
def test_outlines_become_masks(root, read, make):
    make(root)
    train = read(root, "segmentation")["train"]
    assert train.classes == ["background", "cat", "dog"]
    mask = train.mask(0)
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[4:24, 10:30] = 2
    expected[8:16, 16:24] = 1  # the smaller one is on top
    if read is read_coco:
        expected[:2, 0] = IGNORE
    assert (mask == expected).mean() > 0.98, "but for a pixel at the border"
    assert (mask[10:14, 18:22] == 1).all() and (mask[5:7, 12:28] == 2).all()
    written = {file: file.stat().st_mtime_ns for file in root.glob(".masks_*/*.png")}
    assert len(written) == sum(map(len, read(root, "segmentation").values()))
    assert written == {file: file.stat().st_mtime_ns for file in root.glob(".masks_*/*.png")}
    splits, _ = open_splits(read, root, "segmentation", 32, None, "stretch")
    assert splits["train"].targets([0]).shape == (1, 32, 32)


def test_a_mended_picture_gets_another_mask(root):
    outlined_coco(root)
    broken = root / "images/train_b.jpg"
    broken.write_bytes(b"")
    assert not coco_masks(root)["train"].targets[1].exists()
    for width in (WIDTH, WIDTH + 9):
        picture(broken, width=width)
        assert coco_masks(root)["train"].mask(1).shape == (HEIGHT, width)


def test_outlines_that_cannot_be_masks(root, caplog, monkeypatch):
    make_yolo(root)
    refuses(r"have a box and no outline.*line 1.*model=centernet", read_yolo, root, "segmentation")
    shutil.rmtree(root)
    outlined_coco(root)
    change(root, "annotations", 0, segmentation=[[0, 0, 1e12, 0, 1e12, 1e12], [3, 3, 4, 4]])
    assert (coco_masks(root)["train"].mask(0)[6, 2:6] == 1).sum() in (0, 4)
    other = {one.name for one in root.glob(".masks_*")}
    change(root, "annotations", 0, segmentation=[SQUARE])
    coco_masks(root)
    assert {one.name for one in root.glob(".masks_*")} > other, "other labels, other masks"
    change(root, "annotations", 0, segmentation=[[1, 1, 5, 5]])
    coco_masks(root)
    assert "1 outlines of less than three corners were left out" in caplog.text
    change(root, "annotations", 0, segmentation=[[2, 5.1, 9, 5.1, 9, 5.3, 2, 5.3]])
    assert (coco_masks(root)["train"].mask(0)[4:7, :12] == 1).sum() == 8, "drawn as a line"
    back_and_forth = [at for n in range(999) for at in (n % 2 * WIDTH, n % HEIGHT)]
    change(root, "annotations", 0, segmentation=[back_and_forth])
    refuses("annotation 1003: an outline that crosses", coco_masks, root)
    huge = {"size": [20_000, 20_000], "counts": [0, 400_000_000]}
    change(root, "annotations", 0, segmentation=huge)
    refuses("which is at most 134,217,728 pixels", coco_masks, root)
    change(root, "annotations", 0, segmentation=[INNER])
    monkeypatch.setattr(outlines, "draw", lambda *_: (root / "gone/a").touch())
    refuses(r"No such file.*; copy the set to a folder that can", coco_masks, root)


READERS = {  # a name of `data=`, and the files of a small set for it
    "coco": (read_coco, "detection", "images/a.png images/b.png annotations/train.json"),
    "yolo": (read_yolo, "detection", "images/a.png images/b.png labels/a.txt data.yaml"),
    "voc": (read_voc, "detection", "a.png b.png a.xml"),
    "csv": (read_table, "classification", "a.png b.png labels.csv"),
    "folder": (read_folder, "classification", "train/x/a.png train/y/b.png val/x/a.png"),
    "folder_masks": (read_folder_masks, "segmentation", "images/a.png masks/a.png"),
}


@pytest.mark.parametrize("chosen", READERS)
@pytest.mark.parametrize("meant", READERS)
def test_another_format_than_the_set_has(tmp_path, chosen, meant):
    for name in READERS[meant][2].split():
        picture(tmp_path / name) if name.endswith("png") else write(tmp_path / name, "")
    reader, task, _ = READERS[chosen]
    if chosen != meant:
        said = refused(lambda: open_pictures(partial(reader), tmp_path, task))
        hinted = (chosen, meant) != ("folder_masks", "folder")
        assert said.endswith(f"; it looks like data={meant}") == hinted
    assert meant in fitting_formats(tmp_path)
    assert hint_at_format(tmp_path, "read_flowers") == "", "it is chosen by its name"
