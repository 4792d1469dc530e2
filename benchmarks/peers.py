"""Other toolkits on the same pictures, with the same weights to start from, in the same time.

    pip install segmentation-models-pytorch ultralytics
    git clone --depth 1 https://github.com/huggingface/pytorch-image-models
    python benchmarks/peers.py --data FOLDER --timm pytorch-image-models --minutes 30 \
        --only dsb2018_nuclei

FOLDER holds the sets of `benchmarks/sets.py`. Each peer is used as its own examples show, with one
thread, for so many CPU minutes: as many as `sets.py` prints for our recipe. What is not equal:

- timm's script starts from ImageNet's weights, trains with RandAugment and random crops at 224
  pixels, and its number of epochs is chosen so that they take the minutes.
- segmentation_models.pytorch: a U-Net whose encoder has ImageNet's weights, Dice and cross-entropy,
  Adam with one cycle of the learning rate, flips, pictures stretched to one size; scored as ours at
  the size of the pictures.
- ultralytics: YOLO11n at 320 pixels, from random weights as `model=centernet` is, with its own
  augmentation and its own mAP50.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

sys.path.insert(0, str(Path(__file__).parents[1]))

from nano_cv.data import images
from nano_cv.data.formats.coco import read_coco
from nano_cv.data.formats.folder_masks import read_folder_masks
from nano_cv.data.masks import load_mask, resize_mask
from nano_cv.networks.pretrained import LITE0, imagenet_weights
from nano_cv.tasks.metrics import mask_confusion, segmentation_figures

CLASSES, BOXES = ("flowers5", "grocery81"), ("bccd", "boards", "fork_scissors")
MASKS = {"dsb2018_nuclei": (320, 320), "roads": (256, 416)}  # height and width that are trained on
MEAN, STD = 0.5, 0.5  # as the weights of Lite0 were trained


def classify(root: Path, minutes: float, script: Path, folder: Path) -> dict[str, float]:
    """Test accuracy of timm's own script."""
    weights, classes = folder / "lite0.safetensors", len(list((root / "train").iterdir()))
    # As pretrained weights, for the last layer of another number of classes is then left out.
    tensors = {name: value.contiguous() for name, value in imagenet_weights(LITE0).items()}
    save_file(tensors, weights)

    def run(epochs: int, name: str) -> float:
        command = [sys.executable, str(script / "train.py"), "--data-dir", str(root)]
        command += ["--val-split", "val", "--model", LITE0]
        command += ["--pretrained", "--pretrained-path", str(weights)]
        options: dict[str, Any] = {
            "num-classes": classes,
            "epochs": epochs,
            "batch-size": 32,
            "opt": "adamw",
            "lr": 5e-4,
            "weight-decay": 0.05,
            "warmup-epochs": 1,
            "cooldown-epochs": 0,
            "aa": "rand-m9-mstd0.5",
            "smoothing": 0.1,
            "device": "cpu",
            "workers": 1,  # with 0 the script fails
            "output": folder,
            "experiment": name,
        }
        for key, value in options.items():
            command += [f"--{key}", str(value)]
        start = sum(os.times()[2:4])  # processor time of child processes that have ended
        subprocess.run([*command, "--no-prefetcher"], check=True, capture_output=True)
        return sum(os.times()[2:4]) - start

    first, third = run(1, "pace1"), run(3, "pace3")
    run(max(2, round(minutes * 60 / ((third - first) / 2))), "whole")
    command = [sys.executable, str(script / "validate.py"), "--data-dir", str(root)]
    command += ["--split", "test", "--model", LITE0, "--num-classes", str(classes)]
    command += ["--checkpoint", str(folder / "whole" / "model_best.pth.tar"), "--device", "cpu"]
    command += ["--no-prefetcher", "--workers", "1"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {"accuracy": json.loads(done.stdout.partition("--result")[2])["top1"] / 100}


def segment(root: Path, minutes: float, size: tuple[int, int]) -> dict[str, float]:
    """Test IoU of a U-Net of segmentation_models.pytorch."""
    import segmentation_models_pytorch as smp

    splits = read_folder_masks(root, "segmentation")
    classes, meaning = splits["train"].classes, splits["train"].meaning

    def load(split: str) -> list[tuple[Tensor, NDArray[np.uint8]]]:
        pairs = zip(splits[split].files, splits[split].targets, strict=True)
        return [
            (
                torch.from_numpy(images.load(file, [*size]).transpose(2, 0, 1).copy()),
                load_mask(mask, str(mask), meaning),
            )
            for file, mask in pairs
        ]

    train, test = load("train"), load("test")
    targets = [torch.from_numpy(resize_mask(mask, [*size], "stretch")).long() for _, mask in train]
    model = smp.Unet(f"tu-{LITE0}", encoder_weights=None, classes=len(classes))
    model.encoder.model.load_state_dict(imagenet_weights(LITE0), strict=False)
    dice = smp.losses.DiceLoss("multiclass", ignore_index=255)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    start, steps, batch = time.process_time(), 0, 8

    def spent() -> float:
        return (time.process_time() - start) / (minutes * 60)

    while spent() < 1:
        order = torch.randperm(len(train), generator=generator)
        for indices in order.split(batch):
            if len(indices) < 2 or (share := spent()) >= 1:
                break
            pixels = torch.stack([train[index][0] for index in indices]).float() / 255
            masks = torch.stack([targets[index] for index in indices])
            for axis in (-1, -2):
                if torch.rand((), generator=generator) < 0.5:
                    pixels, masks = pixels.flip(axis), masks.flip(axis)
            # One cycle by the time that has passed, as the number of steps is not known.
            rate = min(1.0, share / 0.1) * 0.5 * (1 + np.cos(np.pi * share))
            optimizer.param_groups[0]["lr"] = 1e-3 * rate
            logits = model((pixels - MEAN) / STD)
            loss = cross_entropy(logits, masks, ignore_index=255) + dice(logits, masks)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
    model.eval()
    counts = np.zeros((len(classes), len(classes)), np.int64)
    with torch.inference_mode():
        for pixels, mask in test:
            logits = model((pixels[None].float() / 255 - MEAN) / STD)
            found = interpolate(logits, mask.shape, mode="bilinear")[0].argmax(0)
            counts += mask_confusion(mask, found.numpy(), len(classes))
    return segmentation_figures(counts, classes) | {"steps": steps}


def detect(root: Path, minutes: float, folder: Path) -> dict[str, float]:
    """Test mAP50 of ultralytics' YOLO11n, by its command line."""
    found = read_coco(root, "detection")
    for split, pictures in found.items():
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for file, boxes in zip(pictures.files, pictures.targets, strict=True):
            (folder / "images" / split / file.name).symlink_to(str(file))
            size = np.array(images.dimensions(file) * 2)
            x1, y1, x2, y2 = (boxes.boxes / size).T
            centred = np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], axis=1)
            rows = zip(boxes.labels.tolist(), centred.tolist(), strict=True)
            text = "\n".join(f"{label} {' '.join(map(str, box))}" for label, box in rows)
            (folder / "labels" / split / f"{Path(file.name).stem}.txt").write_text(text)
    names = dict(enumerate(found["train"].classes))
    told = {split: f"images/{split}" for split in found} | {"path": str(folder), "names": names}
    (folder / "data.yaml").write_text(yaml.safe_dump(told))
    options = [f"data={folder / 'data.yaml'}", f"project={folder}", "imgsz=320", "device=cpu"]
    options += ["workers=0", "plots=False", "verbose=False"]
    yolo = [str(Path(sys.executable).with_name("yolo")), "detect"]
    settings = ["model=yolo11n.yaml", f"time={minutes / 60}", "batch=16", "patience=0", "name=it"]
    subprocess.run([*yolo, "train", *settings, *options], check=True, capture_output=True)
    (best,) = folder.glob("**/best.pt")
    said = subprocess.run(
        [*yolo, "val", f"model={best}", "split=test", *options],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    # Pictures, objects, precision, recall, mAP50 and mAP of all classes together.
    (row,) = re.findall(r"^ *all +((?:[\d.e-]+ +){4}([\d.e-]+))", said, re.MULTILINE)
    return {"mAP50": float(row[1])}


def main() -> None:
    """Train the peer of each chosen set, and print a row each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--timm", type=Path, help="a checkout of pytorch-image-models")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--only", nargs="*", default=[*CLASSES, *BOXES, *MASKS], help="sets")
    given = parser.parse_args()
    if not given.timm and {*given.only} & {*CLASSES}:
        parser.error("--timm is needed for sets of classes")
    os.environ["OMP_NUM_THREADS"] = "1"  # of timm's script
    torch.set_num_threads(1)
    for name in given.only:
        root = given.data.absolute() / name
        with tempfile.TemporaryDirectory() as temporary:
            folder, start = Path(temporary), sum(os.times()[:4])
            if name in CLASSES:
                figures = classify(root, given.minutes, given.timm, folder)
            elif name in BOXES:
                figures = detect(root, given.minutes, folder)
            else:
                figures = segment(root, given.minutes, MASKS[name])
        used = os.times()
        minutes = (sum(used[:4]) - start) / 60
        shown = ", ".join(f"{key} {value:.3f}" for key, value in figures.items())
        print(f"| {name} | {shown} | {minutes:.0f} CPU minutes |", flush=True)


if __name__ == "__main__":
    main()
