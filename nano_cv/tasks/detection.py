"""Object detection: boxes with a class and a score, found as the points at their centres.

Heat map and decoding are those of Zhou et al. 2019, "Objects as points". From Liu et al. 2020,
"Training-time-friendly network", come Gaussians in proportion to the box, and boxes that are learnt
at several places around the centre.

Shapes: B pictures, H height, W width, K classes, M true boxes at most, N predicted boxes, h = H/4,
w = W/4.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, max_pool2d

from nano_cv.data.targets import COUNTED, NO_LABEL, Boxes
from nano_cv.metadata import height_width
from nano_cv.networks.centernet import STRIDE
from nano_cv.tasks.score_metrics import Scored, detection_figures, match_boxes
from nano_cv.tasks.task import Losses, Task

SPREAD = 0.09  # standard deviation of a Gaussian, as a share of the box
MIN_DEVIATION = 0.5  # in places of the map, so that small objects have neighbours
MIN_GAUSSIAN = 0.1  # boxes are learnt where the Gaussian is higher than this
ROUNDS = 6  # of suppression; see `suppress`
MAX_LOG_DISTANCE = 5.0  # a distance of 600 pixels; larger values would overflow `exp`


class Detection(Task):
    """Penalty-reduced focal loss on centres, GIoU loss on boxes.

    `configs/model/centernet.yaml` explains the options. N is `max_detections`, or fewer if the map
    has fewer places.
    """

    monitor = "val/mAP"

    def __init__(
        self,
        max_detections: int = 100,
        overlap: float = 0.7,
        box_weight: float = 5.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.max_detections, self.overlap, self.box_weight = max_detections, overlap, box_weight

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """Find N boxes per picture in images uint8 `[B, 3, H, W]`, by falling score.

        A centre is a place of the heat map that no neighbour exceeds. A large object has several
        such places; all but the best of them get the score 0, see `suppress`.

        Returns:
            `BOXES` float32 `[B, N, 4]` xyxy in pixels of the input, `SCORES` float32 `[B, N]` in
            0..1, `LABELS` int64 `[B, N]`.
        """
        return self._decode(*self(images))

    def _decode(self, centers: Tensor, distances: Tensor) -> dict[str, Tensor]:
        heat = centers.float().sigmoid()
        heat = heat * (heat == max_pool2d(heat, kernel_size=3, stride=1, padding=1))
        places = heat.shape[2] * heat.shape[3]
        most = min(self.max_detections, heat.shape[1] * places)
        scores, indices = heat.flatten(1).topk(most, dim=1)
        labels = torch.div(indices, places, rounding_mode="floor")
        indices = (indices - labels * places)[:, :, None].expand(-1, -1, 4)
        boxes = to_boxes(distances.float()).flatten(1, 2).gather(1, indices)
        height, width = height_width(self.metadata.image_size)
        boxes = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height] * 2))
        scores = scores * suppress(boxes, labels, self.overlap)
        scores, order = scores.topk(most, dim=1)
        boxes = boxes.gather(1, order[:, :, None].expand(-1, -1, 4))
        return {"BOXES": boxes, "SCORES": scores, "LABELS": labels.gather(1, order)}

    def training_losses(self, images: Tensor, targets: Boxes) -> Losses:
        """Losses of images `[B, 3, H, W]` in 0..255 and `Boxes` of `[B, M, 4]`."""
        return self._losses(self(images), targets)

    def validate(self, images: Tensor, targets: Boxes, places: Tensor) -> tuple[Losses, Any]:
        """Losses of a batch, and the true and predicted boxes of each picture."""
        outputs = self(images)
        predicted = self._decode(*outputs)
        arrays = [predicted[name].cpu().numpy() for name in ("BOXES", "LABELS", "SCORES")]
        truth = Boxes(*(part.cpu().numpy() for part in targets))
        pairs = []
        for boxes, labels, ignored, frame, *scored in zip(*truth, *arrays, strict=True):
            filled = labels != NO_LABEL
            objects = Boxes(boxes[filled], labels[filled], ignored[filled])
            # Cut at the edge of the picture, before the margin of the letterbox, as in the test.
            pairs.append((objects, Scored(*scored).clipped(frame[:2], frame[2:])))
        return self._losses(outputs, targets), pairs

    def figures(self, validated: Sequence[Any]) -> dict[str, float]:
        """`mAP` and `mAP50`, of boxes in pixels of the network's input."""
        truths, found = zip(*(pair for batch in validated for pair in batch), strict=True)
        classes = self.metadata.classes
        precision = match_boxes(truths, found, len(classes)).precision
        figures = detection_figures(precision, classes)
        return {name: figures[name] for name in ("mAP", "mAP50")}

    def _losses(self, outputs: tuple[Tensor, Tensor], targets: Boxes) -> Losses:
        centers, distances = (output.float() for output in outputs)
        classes, height, width = centers.shape[1:]
        learnt = torch.where(targets.ignored == COUNTED, targets.labels, NO_LABEL)
        targets = targets._replace(labels=learnt)
        gaussians = draw_gaussians(targets, height, width)
        known = targets.labels >= 0
        count = known.sum().clamp(min=1)  # 1 for a batch without objects, which has a loss too

        one_hot = targets.labels[:, :, None] == torch.arange(classes, device=centers.device)
        heat = torch.stack(
            [(gaussians * one_hot[:, :, k, None, None]).amax(dim=1) for k in range(classes)], dim=1
        )
        box_loss = self._box_loss(distances, targets, gaussians) / count
        center_loss = focal_loss(centers, heat) / count
        total = center_loss + self.box_weight * box_loss
        return {"loss": total, "loss_centers": center_loss, "loss_boxes": box_loss}

    def _box_loss(self, distances: Tensor, targets: Boxes, gaussians: Tensor) -> Tensor:
        """Sum of the GIoU losses around all centres; where two are near, of the smaller object."""
        from torchvision.ops import generalized_box_iou_loss  # a second that predicting saves

        boxes, known = targets.boxes, targets.labels >= 0
        near = gaussians * (gaussians > MIN_GAUSSIAN)
        near = near / near.sum(dim=(2, 3), keepdim=True).clamp(min=1e-6)
        area = (boxes[..., 2:] - boxes[..., :2]).prod(dim=2).clamp(min=1)
        first = ((near > 0) * (known / area)[:, :, None, None]).argmax(dim=1)
        weights = near.gather(1, first[:, None])[:, 0]
        wanted = boxes.gather(1, first.flatten(1)[:, :, None].expand(-1, -1, 4))
        chosen = weights > 0
        predicted = to_boxes(distances)[chosen]
        losses = generalized_box_iou_loss(predicted, wanted.view(*chosen.shape, 4)[chosen])
        return (losses * weights[chosen]).sum()


def to_boxes(distances: Tensor) -> Tensor:
    """Turn logarithms of distances `[B, 4, h, w]` into boxes `[B, h, w, 4]`, xyxy in pixels."""
    sides = distances.clamp(max=MAX_LOG_DISTANCE).exp().permute(0, 2, 3, 1) * STRIDE
    height, width = distances.shape[2:]
    rows = torch.arange(height, device=distances.device, dtype=sides.dtype)
    columns = torch.arange(width, device=distances.device, dtype=sides.dtype)
    grid = torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)], dim=-1)
    centers = (grid + 0.5) * STRIDE
    return torch.cat([centers - sides[..., :2], centers + sides[..., 2:]], dim=-1)


def suppress(boxes: Tensor, labels: Tensor, overlap: float) -> Tensor:
    """Non-maximum suppression in plain tensor code, which every exporter understands.

    Greedy suppression looks at one box after the other. Here all boxes are compared at once, in
    `ROUNDS` rounds: a box is suppressed if a better box of its class overlaps it and is not
    suppressed itself. The result is the greedy one, unless more than `ROUNDS` boxes suppress each
    other in a chain (Cluster-NMS of Zheng et al. 2020, "Enhancing geometric factors in model
    learning and inference").

    Args:
        boxes: `[B, N, 4]` xyxy, by falling score.
        labels: int64 `[B, N]`; boxes of different classes never suppress each other.
        overlap: the smallest intersection over union of two boxes of the same object.

    Returns:
        1 for each box that is kept, 0 for the others; `[B, N]` in the dtype of the boxes.
    """
    first, second = boxes[:, :, None], boxes[:, None]
    sides = torch.minimum(first[..., 2:], second[..., 2:])
    sides = (sides - torch.maximum(first[..., :2], second[..., :2])).clamp(min=0)
    shared = sides[..., 0] * sides[..., 1]
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    union = area[:, :, None] + area[:, None] - shared
    same = (labels[:, :, None] == labels[:, None]) & (shared > overlap * union)
    better = torch.ones_like(shared[0]).triu(diagonal=1)  # row i is better than column j
    beaten = same.to(boxes.dtype) * better
    stays = torch.ones_like(area)
    for _ in range(ROUNDS):
        stays = 1 - (beaten * stays[:, :, None]).amax(dim=1)
    return stays


def draw_gaussians(targets: Boxes, height: int, width: int) -> Tensor:
    """Gaussians around the centres of boxes, `[B, M, h, w]`, 1 at a centre; 0 for unused rows."""
    boxes, known = targets.boxes / STRIDE, (targets.labels >= 0).to(targets.boxes.dtype)

    def along(low: Tensor, high: Tensor, places: int) -> Tensor:
        center = ((low + high) / 2).floor().clamp(0, places - 1)[:, :, None]
        deviation = ((high - low) * SPREAD).clamp(min=MIN_DEVIATION)[:, :, None]
        offset = torch.arange(places, device=boxes.device) - center
        return torch.exp(-0.5 * (offset / deviation) ** 2)

    rows = along(boxes[..., 1], boxes[..., 3], height) * known[:, :, None]
    return rows[:, :, :, None] * along(boxes[..., 0], boxes[..., 2], width)[:, :, None, :]


def focal_loss(logits: Tensor, heat: Tensor) -> Tensor:
    """Focal loss, summed over the map, that punishes places near a centre less.

    It is equation 1 of Law and Deng 2018, "CornerNet". Logits and `heat` (0..1, 1 at centres) are
    `[B, K, h, w]`.
    """
    probability, center = logits.sigmoid(), heat == 1
    at_centers = (1 - probability) ** 2 * logsigmoid(logits)
    quiet = probability**2 * (1 - heat) ** 4 * logsigmoid(-logits)
    return -torch.where(center, at_centers, quiet).sum()
