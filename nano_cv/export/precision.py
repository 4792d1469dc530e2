"""Faster exports in int8 and bfloat16, published only if they are as good, and faster.

A variant must lose at most `max_drop` of each validation metric that decides, and be faster on this
processor. Speed depends on the processor, so it is measured, never assumed.
"""

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from omegaconf import DictConfig
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from nano_cv.data.pictures import evenly
from nano_cv.errors import UserError
from nano_cv.evaluation.engines import Arrays, Engine, processor_flags
from nano_cv.evaluation.exported import Onnx, bfloat16_entries
from nano_cv.export.graph import annotate
from nano_cv.export.samples import Samples
from nano_cv.export.triton_config import count_threads

log = logging.getLogger(__name__)
PRECISIONS = ("float32", "int8", "bf16", "int8_bf16")
FEW_CHANNELS = 3  # a convolution of pixels saves little time in int8, and its errors spread far
# Processor flags of instructions that add int8 products in 32 bits. Without them onnxruntime adds
# pairs of products in 16 bits, which 8-bit weights overflow ("Quantize ONNX models", U8S8).
SUMS_IN_32_BITS = ("avx512_vnni", "avx_vnni", "asimddp")
ROUNDS, SECONDS = 7, 0.15  # variants take turns, so that noise of the machine meets all of them


class Variant(NamedTuple):
    """Way to run the model (a file and session entries), with its measurements.

    `bits` is the width of a weight, `scores` are the validation metrics that decide, and `speed` is
    relative to float32 on this processor.
    """

    precision: str
    file: Path
    entries: Mapping[str, str]
    bits: int = 32
    scores: Mapping[str, float] = {}
    speed: float = 1.0


def choose(
    config: DictConfig, float32: Path, samples: Samples | None
) -> tuple[Variant, list[Variant]]:
    """Make the variants for `config.precision`, measure them against float32, and choose one.

    The precision is one of `PRECISIONS`, or `auto` for the fastest variant that passes. Variants
    are written beside the `float32` file. `samples` has training images for the ranges of int8, and
    validation images for the metrics; float32 needs none. Sessions get as many threads as the
    server will use. Returns the variant to publish, and all measured variants, float32 first.

    Raises:
        UserError: the precision cannot be made or does not pass; the message has the measurements.
    """
    precision, variants = config.precision, [Variant("float32", float32, {})]
    if samples is None:
        return variants[0], variants
    wanted = {"auto": PRECISIONS[1:], "float32": ()}.get(precision, (precision,))
    refusals: dict[str, str] = {}  # why a precision cannot be published
    for name in wanted:
        try:
            variants.append(_make(name, float32, samples, config.calibration_pictures))
        except UserError as error:
            refusals[name] = str(error)
    threads = count_threads(config.triton)
    engines = [Onnx(variant.file, threads, variant.entries) for variant in variants]
    scores = [samples.score(engine) for engine in engines]
    speeds = compare_speeds(engines, samples.validation.inputs([0]))
    variants = [
        variant._replace(scores=values, speed=speed)
        for variant, values, speed in zip(variants, scores, speeds, strict=True)
    ]
    for variant in variants[1:]:
        if why := _why_refused(variant, variants[0], config.max_drop):
            refusals[variant.precision] = why
    if precision in refusals:
        raise UserError(f"precision={precision}: {refusals[precision]}; nothing was published")
    for name, why in refusals.items():
        log.info("precision=%s: %s", name, why)
    passing = [variant for variant in variants if variant.precision not in refusals]
    if precision == "auto":
        return max(passing, key=lambda variant: variant.speed), variants
    return passing[-1], variants


def check_processor(precision: str) -> None:
    """Refuse a precision that this processor does not compute in, before anything is loaded."""
    if "bf16" in precision:
        try:
            bfloat16_entries()
        except UserError as error:
            raise UserError(f"precision={precision}: {error}; nothing was published") from error


def list_figures(variants: Sequence[Variant]) -> dict[str, float]:
    """Return scores, speed and bits of each variant, as `val/accuracy/int8` or `speed/int8`."""
    figures: dict[str, float] = {}
    for name, _, _, bits, scores, speed in variants:
        figures |= {f"val/{metric}/{name}": score for metric, score in scores.items()}
        figures |= {f"speed/{name}": speed, f"bits/{name}": bits}
    return figures


def _why_refused(variant: Variant, float32: Variant, max_drop: float) -> str:
    """Return why a variant is refused, with its measurements; empty if the variant passes."""
    times = f"{variant.speed:.2f} times"
    for metric, score in variant.scores.items():
        drop = float32.scores[metric] - score
        if np.isnan(drop):
            return (
                f"the validation {metric} is not known here, so its decrease cannot be measured; "
                f"{times} as fast"
            )
        if drop > max_drop:
            return (
                f"validation {metric} falls by {drop:.4f} to {score:.4f}, and "
                f"max_drop={max_drop:g}; {times} as fast"
            )
    if variant.speed <= 1:
        metric, score = next(iter(variant.scores.items()))
        return (
            f"{times} the speed of float32 on this processor: nothing to gain "
            f"(validation {metric} {score:.4f})"
        )
    return ""


def _make(precision: str, float32: Path, samples: Samples, pictures: int) -> Variant:
    entries = bfloat16_entries() if "bf16" in precision else {}
    if "int8" not in precision:
        return Variant(precision, float32, entries)
    bits, why = choose_bits(processor_flags())
    file = float32.with_name("int8.onnx")
    if not file.exists():
        log.info("int8: weights of %d bits, for %s", bits, why)
        chosen = evenly(len(samples.training.pictures), pictures)
        quantize(float32, file, samples.training.inputs(chosen), bits)
        annotate(file, samples.metadata, {})
    return Variant(precision, file, entries, bits)


def choose_bits(flags: Collection[str]) -> tuple[int, str]:
    """Return the bits of int8 weights (8 or 7) for a processor with these flags, and the reason."""
    exact = [flag for flag in SUMS_IN_32_BITS if flag in flags]
    if exact:
        return 8, f"this processor has {exact[0]}; one without it may need another export"
    return 7, "this processor has neither VNNI nor dot products, and 8 bits could overflow its sums"


def quantize(source: Path, target: Path, calibration: Arrays, bits: int) -> None:
    """Quantise convolutions (except of pixels) and matrix products to static int8 in QDQ form.

    `calibration` are inputs for the ranges of the activations; a weight has `bits`, 8 or 7.
    """
    prepared = target.with_name("prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    logging.disable(logging.WARNING)  # silences advice that onnxruntime logs to the root logger
    try:
        quantize_static(
            str(prepared),
            str(target),
            _Reader(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "MatMul"],
            nodes_to_exclude=_of_pixels(onnx.load(prepared)),
            per_channel=True,
            reduce_range=bits == 7,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    finally:
        logging.disable(logging.NOTSET)
        prepared.unlink()


def _of_pixels(model: onnx.ModelProto) -> list[str]:
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "Conv" and weights.get(node.input[1], (0, 99))[1] <= FEW_CHANNELS
    ]


class _Reader(CalibrationDataReader):
    """Reader that feeds calibration inputs four at a time."""

    def __init__(self, inputs: Arrays) -> None:
        count = len(next(iter(inputs.values())))
        self.parts = (
            {name: np.ascontiguousarray(array[start : start + 4]) for name, array in inputs.items()}
            for start in range(0, count, 4)
        )

    def get_next(self) -> Arrays | None:
        return next(self.parts, None)


def compare_speeds(engines: Sequence[Engine], inputs: Arrays) -> list[float]:
    """Return each engine's speed relative to the first: medians of interleaved rounds."""
    if len(engines) == 1:  # nothing to compare
        return [1.0]
    seconds: list[list[float]] = [[] for _ in engines]
    for number in range(ROUNDS + 1):
        for position, engine in enumerate(engines):
            start, count = time.perf_counter(), 0
            while time.perf_counter() - start < SECONDS:
                engine.predict(inputs)
                count += 1
            if number:  # the first round warms up
                seconds[position].append((time.perf_counter() - start) / count)
    medians = np.median(seconds, axis=1)
    return [float(medians[0] / median) for median in medians]
