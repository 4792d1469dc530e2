"""Check of models before Triton loads them, in a separate process that a bad file may crash."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nano_cv.errors import UserError, one_line
from nano_cv.evaluation.exported import ForeignError, Onnx
from nano_cv.metadata import height_width
from nano_cv.serving.repository import versions_of
from nano_cv.serving.triton import PROJECT

CHECK_SECONDS = 120  # limit of the check of one version


async def check(copies: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    """Return the problems of each version of each model, as an empty text for a sound version.

    `copies` has the folder of each model to check, by the model's name.
    """
    versions = {name: versions_of(folder) or ["-"] for name, folder in copies.items()}
    jobs = [(name, version) for name in copies for version in versions[name]]
    faults: dict[tuple[str, str], str] = {}
    while left := [job for job in jobs if job not in faults]:
        words = [word for name, version in left for word in (str(copies[name]), version)]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", __name__, *words),
            env=os.environ | {"PYTHONPATH": str(PROJECT)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        answers = [json.loads(text) for text in out.splitlines() if text[:1] == b'"']
        faults |= dict(zip(left, answers, strict=False))
        if len(answers) < len(left):  # the process broke down over the next version
            text = " ".join(err.decode(errors="replace").split())[-300:]
            status = process.returncode or 0
            how = text or (signal.strsignal(-status) if status < 0 else f"exit status {status}")
            faults[left[len(answers)]] = f"the check broke down: {how}"
    return {name: {version: faults[name, version] for version in versions[name]} for name in copies}


def answer_once(engine: Onnx) -> None:
    """Let a model answer about a black picture; raises a `UserError` if it cannot."""
    from nano_cv.evaluation import answers  # late, as it loads much

    metadata = engine.metadata
    if metadata.task == "generation":  # takes long, and has no pictures to answer about
        return
    height, width = height_width(metadata.image_size)
    try:
        outputs = engine.predict({"IMAGES": np.zeros((1, 3, height, width), np.uint8)})
        answer = {name: array[0] for name, array in outputs.items()}
        answers.describe(metadata, answer, (width, height), None)
    except Exception as error:  # whatever a wrong label, size or task leads to
        raise UserError(
            f"{engine.source['model']}: its metadata do not fit its graph: {one_line(error)}"
        ) from error
    if any(np.isnan(array).any() for array in outputs.values() if array.dtype.kind == "f"):
        raise UserError(f"{engine.source['model']}: it answers a black picture with NaN")


def main() -> None:
    """Print the problems of each folder and version of the command line, one JSON text per line.

    The exporter's rules come first, then onnxruntime, because it will load the file in the end. A
    model that nano-cv exported must answer about a picture.
    """
    import onnxruntime

    from nano_cv.export.validate import check_model

    onnxruntime.set_default_logger_severity(4)  # its log only repeats the exception's text

    words = sys.argv[1:]
    for folder, version in zip(words[::2], words[1::2], strict=True):
        signal.alarm(CHECK_SECONDS)  # ends this process, whatever it hangs in
        versions = [int(version)] if version.isdecimal() else None
        problems = check_model(Path(folder), versions)
        for file in [] if problems else sorted(Path(folder, version).glob("*.onnx")):
            try:
                answer_once(Onnx(file, 1))
            except ForeignError:
                continue  # its answers are not known here
            except UserError as error:
                problems = [str(error)]
        print(json.dumps("; ".join(problems).replace(f"{folder}/", "")), flush=True)


if __name__ == "__main__":
    main()
