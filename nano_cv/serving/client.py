"""Command that sends images to a Triton server and prints the answers. Imports no torch.

python -m nano_cv.serving.client photo.jpg another.png --output answers
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from nano_cv.data import images
from nano_cv.errors import UserError, listing, nearest, printable
from nano_cv.evaluation.answers import print_answers
from nano_cv.evaluation.client import ADDRESS, Arrays, Client, ServerError
from nano_cv.metadata import JPEG

AT_ONCE = 64  # images in memory at a time


def main() -> None:
    """Print the server's answer per image file; exit with status 1 if a file was refused."""
    parser = argparse.ArgumentParser(description="Ask a Triton server about pictures.")
    parser.add_argument("files", nargs="+", type=Path, metavar="photo.jpg")
    parser.add_argument("--model", help="<model>_<data>; needed if the server has several models")
    parser.add_argument("--address", default=ADDRESS, help=f"HOST:PORT of the server; {ADDRESS}")
    parser.add_argument("--output", type=Path, help="a folder for boxes, masks and drawings")
    text = "least score of boxes or several labels, 0 to 1; by default the model's own thresholds"
    parser.add_argument("--confidence", type=float, metavar="SCORE", help=text)
    options = parser.parse_args()
    if not 0 <= (options.confidence or 0) <= 1:
        parser.error(f"--confidence {options.confidence}: a number from 0 to 1 is needed")
    answers: dict[Path, Arrays] = {}
    refused = 0
    try:
        with closing(Client(options.address)) as client:
            model = _choose(client, options.model)
            metadata = client.metadata(f"{model}{JPEG}")
            for start in range(0, len(options.files), AT_ONCE):
                for file, answer in _ask(client, model, options.files[start : start + AT_ONCE]):
                    if isinstance(answer, UserError):
                        refused += 1
                        print(printable(f"error: {answer}"), file=sys.stderr)
                    else:
                        answers[file] = answer
    except UserError as error:
        sys.exit(printable(f"error: {error}"))
    if answers:
        print_answers(metadata.at_confidence(options.confidence), answers, options.output)
    sys.exit(1 if refused else 0)


def _choose(client: Client, name: str | None) -> str:
    """Return the model `name`, or else the only model that takes images."""
    able = [name.removesuffix(JPEG) for name in client.models() if name.endswith(JPEG)]
    if name in able:
        return name
    if name:
        raise UserError(
            f"{client.address}: no model '{name}' that takes pictures{nearest(name, able)} "
            f"Those that do: {listing(able) or 'none'}"
        )
    if len(able) != 1:
        which = f"several models take pictures, so add --model with one of: {listing(able)}"
        none = "no model takes pictures; to make one, type: python export_model.py"
        raise UserError(f"{client.address}: {which if able else none}")
    return able[0]


def _ask(
    client: Client, model: str, files: Sequence[Path]
) -> Iterator[tuple[Path, Arrays | UserError]]:
    """Yield each file with its outputs, or with the error that explains why it has none."""
    contents: dict[Path, bytes] = {}
    for file in files:
        try:
            contents[file] = images.read(file)
        except images.ImageError as error:
            yield file, error
    answers = client.predict_encoded(model, list(contents.values()))
    for file, answer in zip(contents, answers, strict=True):
        if isinstance(answer, ServerError):
            answer = ServerError(f"{file}: {str(answer).removeprefix('picture: ')}")
        yield file, answer


if __name__ == "__main__":
    main()
