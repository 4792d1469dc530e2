"""A set that can be learnt in seconds: bright rectangles upon noise, as boxes and as masks."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from nano_cv.data.pictures import SPLITS

COLOURS = {"blue": (60, 60, 240), "red": (240, 60, 60)}
SIZES = ((64, 48), (48, 64), (60, 60))  # width and height, in turn
COUNTS = {"train": 48, "val": 6, "test": 6}
Scene = tuple[np.ndarray, list[tuple[int, int, int, int]], list[int]]
_SHARED = [
    *("data.root=data", "data.name=scenes", "data.batch_size=4", "logger=none"),
    *("model.image_size=64", "model.task.network.channels=[8, 16, 32]"),
    *("trainer.accelerator=cpu", "trainer.precision=32-true"),
]
SETTINGS = {  # of a training on scenes in `data`, by model
    "centernet": [*_SHARED, "data=coco", "model=centernet", "model.task.max_detections=30"],
    "unet": [*_SHARED, "data=folder_masks", "model=unet", "model.fit=letterbox"],
}


def make_scenes(root: Path, counts: dict[str, int] = COUNTS) -> Path:
    """`annotations/*.json` for data=coco; `masks/`, `classes.txt` and lists for folder_masks."""
    for folder in ("images", "masks", "annotations"):
        (root / folder).mkdir(parents=True)
    random = np.random.default_rng(0)
    for split in SPLITS:
        names = [f"{split}_{number}" for number in range(counts[split])]
        scenes = [scene(random, *SIZES[number % 3]) for number in range(len(names))]
        for name, (pixels, boxes, labels) in zip(names, scenes, strict=True):
            Image.fromarray(pixels).save(root / "images" / f"{name}.png")
            Image.fromarray(mask(pixels, boxes, labels)).save(root / "masks" / f"{name}.png")
        (root / f"{split}.txt").write_text("\n".join(names))
        content = json.dumps(annotations(names, scenes))
        (root / "annotations" / f"{split}.json").write_text(content)
    (root / "classes.txt").write_text("ground\nblue\nred\n")
    return root


def scene(random: np.random.Generator, width: int, height: int) -> Scene:
    """A rectangle in one half, and most often another one in the other."""
    pixels = random.integers(0, 100, (height, width, 3)).astype(np.uint8)
    boxes, labels = [], []
    for half in range(random.integers(1, 3)):
        wide, high = random.integers(12, 24, 2).tolist()
        left = int(random.integers(0, width // 2 - wide + 1)) + half * (width // 2)
        top, label = int(random.integers(0, height - high)), int(random.integers(2))
        pixels[top : top + high, left : left + wide] = list(COLOURS.values())[label]
        boxes.append((left, top, left + wide, top + high))
        labels.append(label)
    return pixels, boxes, labels


def mask(pixels: np.ndarray, boxes: list[tuple[int, int, int, int]], labels: list[int]):
    """Class 0 is the ground."""
    painted = np.zeros(pixels.shape[:2], np.uint8)
    for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True):
        painted[y1:y2, x1:x2] = label + 1
    return painted


def annotations(names: list[str], scenes: list[Scene]) -> dict[str, list[dict[str, object]]]:
    """In COCO's format."""
    return {
        "categories": [{"id": index, "name": name} for index, name in enumerate(COLOURS)],
        "images": [{"id": n, "file_name": f"{name}.png"} for n, name in enumerate(names)],
        "annotations": [
            {"image_id": number, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            for number, (_, boxes, labels) in enumerate(scenes)
            for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True)
        ],
    }
