"""Detection: boxes that move with their pixels, the network's maps, metrics, and the scripts."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from conftest import CONTRACT, update_json
from PIL import Image
from pycocotools.coco import COCO
from scenes import SETTINGS, make_scenes
from torch import Tensor
from torchvision.ops import batched_nms

from nano_cv.data import images
from nano_cv.data.augment import Augment
from nano_cv.data.pictures import Pictures, Resized
from nano_cv.data.targets import COUNTED, NO_LABEL, Boxes
from nano_cv.evaluation import reports
from nano_cv.metadata import Fit
from nano_cv.networks.centernet import CenterNet
from nano_cv.tasks.detection import SPREAD, Detection, draw_gaussians, suppress

SIDE = 32
CONTRACT = replace(
    CONTRACT, task="detection", model="centernet", classes=["cat", "dog"], fit="letterbox"
)
REPORT = reports.find("detection")
SIZES = [(64, 48), (31, 97), (200, 10), (33, 33), (8, 500), (SIDE, SIDE)]  # width and height


def boxes(*rows: tuple[float, ...], labels: list[int] | None = None) -> Boxes:
    array = np.array(rows, np.float32).reshape(-1, 4)
    ignored = np.full(len(array), COUNTED, np.uint8)
    return Boxes(array, np.array(labels or [0] * len(array), np.int64), ignored)


def batch(*rows: tuple[float, ...], labels: list[int] | None = None) -> Boxes:
    """The boxes of a single picture, as a model is given them."""
    return Boxes(*(torch.from_numpy(one)[None] for one in boxes(*rows, labels=labels)[:3]))


def painted(width: int, height: int, box: tuple[int, ...]) -> np.ndarray:
    """A white rectangle on black."""
    pixels = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = box
    pixels[y1:y2, x1:x2] = 255
    return pixels


def bright(picture: np.ndarray | Tensor) -> list[int]:
    """Where the white rectangle is in `[H, W, 3]`."""
    rows, columns = np.nonzero(np.asarray(picture).min(axis=2) > 127)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def photographs(folder: Path, sizes: list[tuple[int, int]], targets: list[Boxes]) -> Pictures:
    folder.mkdir(exist_ok=True)
    files = [folder / f"{number}.png" for number in range(len(sizes))]
    for file, size in zip(files, sizes, strict=True):
        Image.new("RGB", size).save(file)
    return Pictures(folder, files, targets, CONTRACT.classes)


def predicted(pictures: Pictures, found: list[Boxes], scores: list[list[float]], places: int = 4):
    """What a model would answer that finds these boxes, given in pixels of each picture."""
    fitted = Resized(replace(pictures, targets=found), SIDE, None, CONTRACT.fit)
    answer = {
        "BOXES": np.zeros((len(found), places, 4), np.float32),
        "SCORES": np.zeros((len(found), places), np.float32),
        "LABELS": np.zeros((len(found), places), np.int64),
    }
    for index, one in enumerate(fitted.fitted.boxes):
        answer["BOXES"][index, : len(one.labels)] = one.boxes
        answer["LABELS"][index, : len(one.labels)] = one.labels
        answer["SCORES"][index, : len(one.labels)] = scores[index]
    return answer


@pytest.mark.parametrize("fit", ("stretch", "letterbox"))
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_box_goes_into_the_square_with_its_pixels(tmp_path, fit, width, height):
    box = (width // 4, height // 4, width - width // 8, height - 1)
    file = tmp_path / "one.png"
    Image.fromarray(painted(width, height, box)).save(file)
    pictures = Pictures(tmp_path, [file], [boxes(box)], CONTRACT.classes)
    fitted = Resized(pictures, 64, None, fit)
    moved = fitted.targets([0]).boxes[0]
    if min(width, height) > 10:  # a line of a single grey pixel is not to be found again
        assert bright(fitted.fetch([0])[0].transpose(1, 2, 0)) == pytest.approx(moved[0], abs=1)
    metadata = replace(CONTRACT, image_size=64, fit=fit)
    answer = {"BOXES": moved[None], "SCORES": np.ones((1, 1)), "LABELS": np.zeros((1, 1), int)}
    (restored,) = REPORT(metadata, answer, pictures).found
    assert restored.boxes[0] == pytest.approx(box, abs=1e-3)


def test_letterbox_by_hand(tmp_path):
    """64 x 16 into 32: half as large, 12 grey rows above and below."""
    assert images.place(64, 16, 32, "letterbox") == (0, 12, 32, 8)
    assert images.place(16, 64, 32, "letterbox") == (12, 0, 8, 32)
    assert images.place(1000, 8, 32, "letterbox") == (0, 15, 32, 1), "never less than a pixel"
    pictures = photographs(tmp_path, [(64, 16)], [boxes((10, 4, 64, 16))])
    fitted = Resized(pictures, 32, None, "letterbox")
    assert fitted.targets([0]).boxes.tolist() == [[[5, 14, 32, 20]]]
    rows = fitted.fetch([0])[0, 0, :, 0]
    assert rows.tolist() == [images.GREY] * 12 + [0] * 8 + [images.GREY] * 12


def test_boxes_out_of_the_picture_are_cut_and_said(tmp_path, caplog):
    target = boxes((-5, 2, 10, 12), (70, 0, 90, 9), labels=[1, 0])
    (fitted,) = Resized(photographs(tmp_path, [(64, 64)], [target]), 32, None).fitted.boxes
    assert fitted.boxes.tolist() == [[0, 1, 5, 6]] and fitted.labels == [1]
    assert "reach beyond their pictures" in caplog.text and "0.png" in caplog.text
    assert "were cut, and 1 wholly outside left out" in caplog.text


def augmented(
    box: tuple[int, ...],
    seed: int,
    width: int = SIDE,
    given: dict[str, Any] | None = None,
    **options,
) -> tuple[Tensor, Boxes]:
    picture = torch.from_numpy(painted(width, SIDE, box)).permute(2, 0, 1)
    torch.manual_seed(seed)
    changed, moved = Augment(**options)(picture[None], batch(box), **(given or {}))
    return changed[0].permute(1, 2, 0), moved


@pytest.mark.parametrize(("degrees", "ways"), [(0, 2), (90, 6), (180, 8)])
def test_mirror_and_turn_move_boxes_exactly(degrees, ways):
    seen = set()
    for seed in range(60):
        picture, moved = augmented((3, 5, 20, 9), seed, flip=0.5, degrees=degrees)
        assert moved.boxes[0, 0].tolist() == pytest.approx(bright(picture), abs=1e-3)
        assert moved.labels.tolist() == [[0]]
        seen.add(tuple(bright(picture)))
    assert len(seen) == ways, "quarter turns of the picture and of its mirror image"


@pytest.mark.parametrize(
    ("width", "given", "shape"),
    [
        (SIDE, {}, (SIDE, SIDE)),
        (SIDE, {"size": SIDE // 2}, (SIDE // 2, SIDE // 2)),
        (2 * SIDE, {}, (SIDE, 2 * SIDE)),
        (2 * SIDE, {"crop": (24, 40)}, (24, 40)),
    ],
)
def test_zoom_and_shift_move_boxes_with_their_pixels(width, given, shape):
    """Free angles too: with boxes they are whole quarters."""
    box = (2, 6, 14, 20) if width == SIDE else (20, 8, 44, 20)
    options = {"degrees": 180.0, "scale": (0.7, 1.5), "translate": 0.3}
    lost = 0
    for seed in range(60):
        picture, moved = augmented(box, seed, width, given, **options)
        assert picture.shape == (*shape, 3)
        if moved.labels[0, 0] == NO_LABEL:
            lost += 1
        else:
            assert moved.boxes[0, 0].tolist() == pytest.approx(bright(picture), abs=1.6)
    assert lost < 30


def test_a_centre_sees_an_object_that_fills_the_picture():
    """Else the class and the sides of an object that fills the picture are guessed."""
    torch.manual_seed(0)
    network = CenterNet(2, [288, 384]).eval()
    one, other = torch.rand(1, 3, 288, 384), torch.zeros(1, 3, 288, 384)
    other += one
    other[..., :32, :16] = 9
    middle = [maps[..., 36, 48] for images in (one, other) for maps in network(images)]
    assert not torch.equal(middle[0], middle[2]) and not torch.equal(middle[1], middle[3])


def detector(maps: tuple[Tensor, Tensor] | None = None, most: int = 4) -> Detection:
    torch.manual_seed(0)
    network = partial(CenterNet, channels=(4, 8), width=4)
    task = Detection(metadata=CONTRACT, network=network, max_detections=most).eval()
    if maps:
        task.network.forward = lambda _: maps
    return task


def test_predict_finds_what_is_on_the_map():
    # No centre anywhere, without plateaus; distances of one place.
    slope = torch.arange(64.0).view(8, 8).expand(1, 2, 8, 8) / 100
    centers, distances = slope - 20, torch.zeros(1, 4, 8, 8)
    centers[0, 1, 2, 5], centers[0, 0, 6, 1], centers[0, 1, 6, 6] = 2.0, 4.0, 0.0
    centers[0, 1, 2, 6] = 1.9  # the slope of the same peak
    distances[0, :, 2, 5] = torch.tensor([2.0, 1.0, 0.5, 0.25]).log()
    found = detector((centers, distances)).predict(torch.zeros(1, 3, SIDE, SIDE).byte())
    assert found["LABELS"][0, :3].tolist() == [0, 1, 1]
    assert found["SCORES"][0, :3].tolist() == pytest.approx([0.982, 0.881, 0.5], abs=1e-3)
    assert found["SCORES"][0, 3] < 1e-6
    for row, box in enumerate([(2, 22, 10, 30), (14, 6, 24, 11), (22, 22, 30, 30)]):
        assert found["BOXES"][0, row].tolist() == pytest.approx(box, abs=1e-4)


def test_gaussians_by_hand():
    """A box of 16 x 8 places, and an empty place."""
    targets = batch((0, 16, 64, 48), (0, 0, 64, 64), labels=[1, NO_LABEL])
    drawn = draw_gaussians(targets, height=16, width=16)
    assert drawn.shape == (1, 2, 16, 16) and drawn[0, 1].abs().max() == 0
    assert (drawn[0, 0] == 1).nonzero().tolist() == [[8, 8]]
    beside, above = (np.exp(-0.5 / (side * SPREAD) ** 2) for side in (16, 8))
    assert drawn[0, 0, 8, 9] == pytest.approx(beside, abs=1e-6)
    assert drawn[0, 0, 7, 8] == pytest.approx(above, abs=1e-6)
    corner = draw_gaussians(batch((60, 60, 64, 64)), height=16, width=16)
    assert (corner == 1).nonzero().tolist() == [[0, 0, 15, 15]]


def exact_maps(box: tuple[int, ...], label: int = 0) -> tuple[Tensor, Tensor]:
    """The maps of a network that knows the box, and is sure."""
    centers = torch.full((1, 2, 8, 8), -15.0)
    x1, y1, x2, y2 = box
    centers[0, label, (y1 + y2) // 8, (x1 + x2) // 8] = 15
    middle = torch.arange(8) * 4 + 2
    across, down = middle.expand(8, 8), middle[:, None].expand(8, 8)
    sides = torch.stack([across - x1, down - y1, x2 - across, y2 - down])[None]
    return centers, (sides / 4).clamp(min=1e-3).log()


def test_losses_of_what_is_right_and_wrong():
    box = (4, 8, 24, 20)
    task, targets = detector(), batch(box, labels=[1])
    right = task._losses(exact_maps(box, 1), targets)
    assert right.keys() == {"loss", "loss_centers", "loss_boxes"}
    assert all(float(value) < 1e-4 for value in right.values())
    other = task._losses(exact_maps(box, 0), targets)
    assert other["loss_boxes"] < 1e-4 and other["loss_centers"] > 10
    half = task._losses(exact_maps((4, 8, 14, 20), 1), targets)
    assert half["loss_boxes"] == pytest.approx(0.5, abs=0.1), "1 - IoU"


def test_of_two_objects_in_one_place_the_smaller_is_learnt():
    large, small = (0, 0, 32, 32), (12, 12, 20, 20)
    task = detector()
    for order in ((large, small), (small, large)):
        losses = [task._losses(exact_maps(box), batch(*order))["loss_boxes"] for box in order]
        assert order[int(np.argmin([float(one) for one in losses]))] == small


def test_losses_without_any_object():
    task = detector().train()
    targets = batch((0, 0, 0, 0), labels=[NO_LABEL])
    losses = task._losses(task(torch.randint(0, 256, (1, 3, SIDE, SIDE))), targets)
    assert losses["loss_boxes"] == 0 and losses["loss_centers"].isfinite()
    losses["loss"].backward()
    gradients = [parameter.grad for parameter in task.parameters()]
    assert all(one is not None and one.isfinite().all() for one in gradients)


def test_each_class_has_its_threshold(tmp_path):
    """What is shown, counted and drawn; and of a picture in which nothing is, it is said."""
    truth = [boxes((0, 0, 20, 20), (30, 30, 60, 60), labels=[0, 1])] * 2
    pictures = photographs(tmp_path, [(64, 64)] * 2, truth)
    answer = predicted(pictures, truth, [[0.4, 0.4], [0.2, 0.1]])
    fitted = replace(CONTRACT, thresholds=[0.3, 0.5])
    report = REPORT(fitted, answer, pictures)
    assert [row["label"] for row in report.rows()] == ["cat", ""]
    metrics = report.metrics()
    assert metrics["mAP"] == pytest.approx(1)
    assert [metrics[f"{kind}/cat"] for kind in ("precision", "recall")] == [1, 0.5]
    assert metrics["F1/dog"] == 0 and metrics["mF1"] == pytest.approx(1 / 3)
    (remark,) = report.remarks()
    assert (
        "no box is sure enough in 1 of 2 pictures; the highest score there is 0.2, of cat" in remark
    )
    assert "which is shown from 0.3 on (a confidence of 0.2 shows it)" in remark
    shown = REPORT(fitted.at_confidence(0.1), answer, pictures)
    assert len(shown.rows()) == 4 and shown.metrics()["mF1"] == 1 and not shown.remarks()


def test_files_for_other_programs(tmp_path):
    pictures = photographs(tmp_path / "pictures", [(64, 48), (48, 64)], [])
    found = [boxes((8, 6, 40, 30), (1, 1, 9, 9), labels=[1, 0]), boxes((0, 0, 5, 5))]
    answer = predicted(pictures, found, [[0.75, 0.2], [0.001]])
    REPORT(CONTRACT, answer, pictures).write_files(tmp_path)
    coco = COCO(str(tmp_path / "detections.json"))
    assert {one["id"]: one["name"] for one in coco.cats.values()} == {1: "cat", 2: "dog"}
    assert [one["file_name"] for one in coco.imgs.values()] == ["0.png", "1.png"]
    first, second = coco.anns.values()
    assert first["bbox"] == pytest.approx([8, 6, 32, 24], abs=0.02) and first["category_id"] == 2
    assert (first["image_id"], first["score"], second["category_id"]) == (1, 0.75, 1)

    first, second = REPORT(CONTRACT, answer, pictures).rows()
    assert list(first) == ["file", "label", "score", "x1", "y1", "x2", "y2"]
    assert list(first.values()) == ["0.png", "dog", "0.7500", "8.0", "6.0", "40.0", "30.0"]
    assert list(second.values()) == ["1.png", "", "", "", "", "", ""]


def test_compare(tmp_path):
    pictures = photographs(tmp_path, [(SIDE, SIDE)], [])
    found = [boxes((2, 2, 12, 12), (2, 2, 12, 12), (20, 20, 30, 30), labels=[0, 0, 1])]
    answer = predicted(pictures, found, [[0.8, 0.7999, 0.5]])

    def apart(**changes: Any) -> list[float]:
        other = {name: one.copy() for name, one in answer.items()}
        for name, value in changes.items():
            other[name][0, 2] = value
        one = REPORT.compare(answer, other)
        assert one == REPORT.compare(other, answer), "in both directions"
        assert one.keys() == set(REPORT.limits)
        return [float(one["pixels"][0]), float(one["score"][0])]

    assert apart() == [0, 0]
    assert apart(BOXES=[20, 20, 30, 33]) == [3, 0]
    assert apart(SCORES=0.4) == pytest.approx([0, 0.1])
    assert apart(LABELS=0)[0] > 5
    assert apart(SCORES=0.0)[1] == 0.5, "a box that is missing"
    swapped = {name: one[:, [1, 0, 2, 3]] for name, one in answer.items()}
    extra = {name: one.copy() for name, one in answer.items()}
    extra["BOXES"][0, 3], extra["SCORES"][0, 3] = [0, 20, 9, 30], 0.07
    for other in (swapped, extra):
        assert [float(one[0]) for one in REPORT.compare(answer, other).values()] == [0, 0]
    extra["SCORES"][0, 3] = 0.6
    assert max(float(one[0]) for one in REPORT.compare(answer, extra).values()) > 0.1
    broken = answer | {"SCORES": np.full_like(answer["SCORES"], np.nan)}
    for pair in ((answer, broken), (broken, answer), (broken, broken)):
        assert np.isnan(REPORT.compare(*pair)["score"][0])


TRAIN = ("train", *SETTINGS["centernet"], "trainer.max_epochs=1")


@pytest.mark.parametrize("empty", [("val", "test"), ("train",)])
def test_a_split_without_any_object(run, drawn, tmp_path, recwarn, empty):
    """Its metrics are unknown, the last epoch is kept; but something must be learnt from."""
    make_scenes(tmp_path / "data", {"train": 8, "val": 2, "test": 2})
    for split in empty:
        update_json(tmp_path / f"data/annotations/{split}.json", annotations=[])
    done = run(*TRAIN[:-1], "trainer.max_epochs=2")
    if "train" in empty:
        assert done.status == 1 and "no objects in 'train' for blue, red" in done.err
        return
    assert done.status == 0, done.err
    said = {tuple(line.split()) for line in done.out.splitlines()}
    assert "val/mAP is unknown, as the validation pictures show no class" in done.out
    unknown = {("best", "val/mAP"), ("val/mF1",), ("test/mAP",), ("test/mF1",)}
    assert {(*name, "unknown") for name in unknown} <= said
    (run_folder,) = tmp_path.glob("runs/train/*/*")
    assert json.loads((run_folder / "metrics.json").read_text())["test/mAP"] is None
    assert torch.load(run_folder / "checkpoints/best.ckpt", weights_only=True)["epoch"] == 1
    for name in ("predictions", "worst_mistakes", "precision_recall"):
        assert (run_folder / f"{name}.png").exists()
    assert not [one for one in recwarn if one.category is UserWarning]


@pytest.mark.parametrize("fit", get_args(Fit))
def test_validation_counts_as_the_test(tmp_path, fit):
    """Also boxes that reach into the margins, and the map's plateaus: the number that chooses."""
    torch.manual_seed(0)
    centers, distances = torch.randn(3, 2, 8, 8) * 3, torch.randn(3, 4, 8, 8) * 0.5 + 0.5
    metadata = replace(CONTRACT, fit=fit)
    task = Detection(metadata=metadata, network=partial(CenterNet, channels=(4, 8), width=4))
    task.network.forward = lambda _: (centers, distances)
    sizes = [(64, 20), (20, 64), (40, 30)]
    pixels = torch.zeros(3, 3, SIDE, SIDE, dtype=torch.uint8)
    found = {name: one.numpy() for name, one in task.predict(pixels).items()}
    empty = photographs(tmp_path, sizes, [])
    answers = REPORT(metadata, found, empty).found
    ignored = np.arange(9, dtype=np.uint8) % 3 % 2
    truth = [  # the surest boxes, as they end at the border of their picture
        Boxes(one.boxes[:9].astype(np.float32), one.labels[:9], ignored) for one in answers
    ]
    pictures = Pictures(tmp_path, empty.files, truth, CONTRACT.classes)
    batch = Resized(pictures, SIDE, None, fit).targets([0, 1, 2])
    _, evidence = task.validate(pixels, Boxes(*map(torch.from_numpy, batch)), torch.arange(0))
    tested, validated = REPORT(metadata, found, pictures).metrics(), task.figures([evidence])
    assert validated == pytest.approx({name: tested[name] for name in validated}, abs=1e-6)
    assert tested["mAP50"] > 0.3


@pytest.mark.parametrize("overlap", [0.3, 0.5, 0.7])
def test_suppression_is_the_greedy_one(overlap):
    torch.manual_seed(0)
    for _ in range(20):
        corners = torch.rand(100, 2) * 80
        boxes = torch.cat([corners, corners + torch.rand(100, 2) * 60 + 5], dim=1)
        scores, labels = torch.rand(100).sort(descending=True)[0], torch.randint(0, 2, (100,))
        kept = torch.zeros(100)
        kept[batched_nms(boxes, scores, labels, overlap)] = 1
        assert torch.equal(suppress(boxes[None], labels[None], overlap)[0], kept)
