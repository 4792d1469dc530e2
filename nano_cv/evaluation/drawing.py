"""Draws results without a screen; drawings are uint8 RGB arrays `[H, W, 3]`.

Functions import matplotlib themselves, because it takes half a second to load.
"""

import logging
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from nano_cv.data import images
from nano_cv.data.pictures import Pictures
from nano_cv.errors import one_line
from nano_cv.files import write_whole
from nano_cv.tasks.metrics import share_right

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)
Drawing = NDArray[np.uint8]
Font = ImageFont.FreeTypeFont
WIDTH = 1040  # pixels of a sheet of pictures
SIDE = 640  # pixels; the longest side of a small picture that stands alone on a sheet
GAP = 8  # pixels between the pictures of a sheet
MAX_LETTERS = 24  # letters in a line of the name of a class
MAX_WITH_ZEROS = 12  # with more classes, a confusion matrix leaves out its zeros
MAX_CLASSES = 30  # with more classes, a confusion matrix shows only the most confused
INCHES = 16.0  # the longest side of a confusion matrix; 1,920 pixels
FONTS = (  # the first comes with matplotlib; operating systems bring the others
    *("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Hiragino Sans GB"),
    *("Arial Unicode MS", "Microsoft YaHei", "Malgun Gothic", "WenQuanYi Zen Hei"),
)


@contextmanager
def chart_style() -> Iterator[None]:
    """Decorator that sets matplotlib's options while a chart is drawn.

    Names of classes and files are drawn as they are: `$` and `_` are not TeX. The colour-blind can
    tell the colours of the lines apart.
    """
    import matplotlib.style

    settings: Any = dict(matplotlib.style.library["tableau-colorblind10"])
    settings |= {"text.parse_math": False, "text.usetex": False, "font.family": list(fonts())}
    with matplotlib.rc_context(settings):
        yield


@cache
def fonts() -> dict[str, frozenset[int]]:
    """The fonts of `FONTS` that this machine has, each with the code points of its glyphs."""
    from matplotlib.font_manager import findfont, fontManager, get_font

    known = {font.name for font in fontManager.ttflist}
    return {n: frozenset(get_font(findfont(n)).get_charmap()) for n in FONTS if n in known}


def make_figure(width: float, height: float, title: str = "") -> "Figure":
    """An empty figure, width and height in inches, with a title and an automatic layout."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    lines = [textwrap.fill(line, int(11 * width)) for line in title.split("\n")]
    figure.suptitle("\n".join(lines), fontsize=11, multialignment="center")
    return figure


@cache
def legible(classes: tuple[str, ...]) -> list[str]:
    """The names of classes for drawings: `class 3` if no font of this machine has its letters."""
    known = frozenset[int]().union(*fonts().values())
    names = [
        name if all(ord(char) in known for char in name if char.isalpha()) else f"class {index}"
        for index, name in enumerate(classes)
    ]
    if count := sum(drawn != other for drawn, other in zip(names, classes, strict=True)):
        log.warning(
            "No font on this machine has the letters of %d class names: drawings show them as "
            "'class 0', 'class 1', ..., by their place in the list of classes. The fonts Noto Sans "
            "CJK have Chinese, Japanese and Korean",
            count,
        )
    return names


def shown(text: str, longest: int = MAX_LETTERS, font: str = "") -> str:
    """A text that can be drawn on one line; the middle of a long text is left out.

    Invisible characters, and characters that no font (or not the given one) has, are replaced by
    their escapes, such as `\\n` or `\\u732b`.
    """
    glyphs = [fonts()[font]] if font else fonts().values()
    text = "".join(
        letter
        if letter.isprintable() and any(ord(letter) in known for known in glyphs)
        else letter.encode("unicode_escape").decode()
        for letter in text
    )
    half = max(1, (longest - 1) // 2)
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"


def two_lines(name: str) -> str:
    """The name of a class for a chart, in at most two lines; longer names are shortened to one."""
    lines = textwrap.wrap(shown(name, 2 * MAX_LETTERS), MAX_LETTERS)
    return "\n".join(lines) if len(lines) <= 2 else shown(name)


def fit(text: str, size: int, width: float, most: int = 1) -> tuple[list[str], Font]:
    """Wrap a text to at most `most` lines of `width` pixels, in the font with most of its letters.

    Lines end between words if there is room for that. The middle of a text that is too long is left
    out.
    """
    from matplotlib.font_manager import findfont

    name = max(fonts(), key=lambda name: len(fonts()[name].intersection(map(ord, text))))
    font, text = ImageFont.truetype(findfont(name), size), shown(text, 10**6, name)
    lines, length = [text], font.getlength(text)
    if length > width:
        # Letters differ in width, so the number of letters per line is lowered until all lines fit.
        for letters in range(int(1.2 * len(text) * width / length) + 1, 0, -1):
            short = shown(text, most * letters)
            lines = textwrap.wrap(short, letters)
            if len(lines) > most:
                lines = [short[start : start + letters] for start in range(0, len(short), letters)]
            if max(map(font.getlength, lines)) <= width:
                break
    return lines, font


def words(text: str, width: int, size: int, most: int = 3) -> Drawing:
    """Draw a text black on white, `width` pixels wide, with its lines wrapped and centred."""
    fitted = [fit(line, size, width - 4, most) for line in text.split("\n") if line]
    lines = [(line, font) for lines, font in fitted for line in lines]
    picture = Image.new("RGB", (width, max(1, len(lines) * size * 3 // 2)), "white")
    for row, (line, font) in enumerate(lines):
        place = width / 2, row * size * 3 // 2
        ImageDraw.Draw(picture).text(place, line, fill="black", font=font, anchor="ma")
    return np.asarray(picture)


def write_drawing(
    name: str,
    draw: Callable[[], Drawing],
    folder: Path,
    log_file: Callable[[Path], None] | None = None,
) -> None:
    """Draw `<name>.png` into `folder` and log the file; a failure gives only a warning."""
    file = folder / f"{name}.png"
    try:
        write_whole(file, images.encode_png(draw()))
    except Exception as error:  # a drawing must not end a training
        log.warning("%s.png could not be drawn, and is left out: %s", name, one_line(error))
        log.debug("%s.png", name, exc_info=error)
        return
    if log_file:
        log_file(file)


def render(figure: "Figure") -> Drawing:
    """The pixels of a figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


@chart_style()
def confusion_matrix(
    counts: NDArray[np.int64], classes: Sequence[str], unit: str = "pictures", title: str = ""
) -> Drawing:
    """Draw a confusion matrix `[K, K]`: rows are true classes, columns predicted classes.

    The colour of a cell is its share of the row. The text is the number of pictures; if the `unit`
    is pixels, whose numbers are long, it is the percentage of the row. With more than `MAX_CLASSES`
    classes, the most confused are shown, and all others together as one column.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    rows: NDArray[np.int64] = np.arange(len(classes))
    columns = [two_lines(name) for name in classes]
    right = share_right(counts)
    if len(classes) > MAX_CLASSES:
        wrong = (counts if unit == "pictures" else shares) * (1 - np.eye(len(classes)))
        order = np.argsort(-wrong.sum(axis=0) - wrong.sum(axis=1), kind="stable")
        rows = np.sort(order[: MAX_CLASSES - 5])
        title += f"\nthe {len(rows)} most confused of {len(classes):,} classes"
        others = np.delete(np.arange(len(classes)), rows)
        columns = [*(columns[row] for row in rows), f"{len(others):,} others"]
        counts, shares = (
            np.column_stack([cells[np.ix_(rows, rows)], cells[np.ix_(rows, others)].sum(axis=1)])
            for cells in (counts, shares)
        )
    # Cells shrink when there are many, so that the drawing still fits on a screen.
    side = min(max(4.0, 1.6 + 0.75 * len(columns)), INCHES)
    if unit != "pictures":
        title += f"\n{right:.1%} of the {unit} right\n% of each true class"
    figure = make_figure(side, side, title=title.strip())
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        if not share and len(columns) > MAX_WITH_ZEROS:
            continue
        text = str(counts[row, column]) if unit == "pictures" else _percent(share)
        colour = "white" if share > 0.5 else "black"
        axes.text(column, row, text, ha="center", va="center", color=colour, in_layout=False)
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right")
    axes.set_yticks(range(len(rows)), columns[: len(rows)])
    axes.set(xlabel="predicted", ylabel="true")
    return render(figure)


def _percent(share: float) -> str:
    """A percentage with one decimal; 0 and 100 are written only if they are exact."""
    if share in (0, 1):
        return f"{share:.0%}".rstrip("%")
    return f"{min(max(100 * share, 0.1), 99.9):.1f}"


def lay_out(
    pictures: Sequence[Drawing],
    columns: int,
    captions: Sequence[str] = (),
    names: Sequence[str] = (),
    title: str = "",
    legend: Drawing | None = None,
) -> Drawing:
    """Draw a sheet: a title, a legend if given, and rows of pictures of one size.

    Each picture has its caption above it and its name, such as the name of its file, below it. The
    pictures of a row stand on one line, with white around them.
    """
    if not pictures:
        return words(f"{title}\nnothing to show: no mistakes", WIDTH, 15)
    wide, cells = pictures[0].shape[1], []
    for picture, caption, name in zip_longest(pictures, captions, names, fillvalue=""):
        cells.append(np.concatenate([words(caption, wide, 13), picture, words(name, wide, 10, 1)]))
    columns = min(columns, len(cells))
    width = columns * (wide + GAP) + GAP
    parts = [words(title, width, 15)]
    if legend is not None:
        parts.append(frame(legend, width, len(legend), "white"))
    for start in range(0, len(cells), columns):
        row = cells[start : start + columns]
        canvas = np.full((max(map(len, row)) + GAP, width, 3), 255, np.uint8)
        for place, cell in enumerate(row):
            left = GAP + place * (wide + GAP)
            canvas[-GAP - len(cell) : -GAP, left : left + wide] = cell
        parts.append(canvas)
    return np.pad(np.concatenate(parts), ((GAP, 0), (0, 0), (0, 0)), constant_values=255)


def frame(picture: Drawing, width: int, height: int, colour: str = "#eeeeee") -> Drawing:
    """Put a picture into the middle of a larger area of one colour."""
    canvas = Image.new("RGB", (width, height), colour)
    place = (width - picture.shape[1]) // 2, (height - len(picture)) // 2
    canvas.paste(Image.fromarray(picture), place)
    return np.asarray(canvas)


def enlarge(pixels: NDArray[np.uint8], columns: int) -> Drawing:
    """Resize a picture `[3, h, w]` for a sheet with so many columns."""
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    width = WIDTH // columns - GAP
    return np.asarray(image.resize((width, max(1, width * image.height // image.width))))


def sheet(
    pictures: Pictures,
    indices: Sequence[int],
    caption: Callable[[int], str],
    paint: Callable[[Drawing, int], Sequence[Drawing]] = lambda image, index: [image],
    columns: int = 4,
    title: str = "",
    legend: Drawing | None = None,
    panels: int = 1,
) -> Drawing:
    """Draw a sheet of some pictures with their captions and the names of their files.

    A single picture fills the sheet. Several get frames of the median shape, and wide pictures get
    fewer columns.

    Args:
        indices: which of the `pictures` to show.
        caption: makes the caption of a picture from its index.
        paint: turns a picture `[H, W, 3]` and its index into panels that are put side by side.
        columns: the largest number of columns.
        panels: number of panels that `paint` returns.
    """
    shown = []
    if indices:
        sizes = [images.dimensions(pictures.files[index]) for index in indices]
        shape = float(np.median([height / width for width, height in sizes]))
        # Pictures that are more than twice as wide as high would be thin strips in all columns.
        columns = max(1, min(columns, len(sizes), round(2 * columns * shape)))
        wide = WIDTH // (columns * panels) - GAP
        if len(sizes) == 1:  # enlarging a small picture more would only blur it
            wide = min(wide, max(SIDE, 2 * max(sizes[0])) // panels)
        high = max(1, round(wide * min(shape, 1.25)))
    for index in indices:
        picture = images.decode(pictures.files[index], wide)
        fitted = images.place(*picture.size, [high, wide - 2], "letterbox")
        painted = paint(np.asarray(picture.resize((fitted.width, fitted.height))), index)
        shown.append(np.hstack([frame(panel, wide, high) for panel in painted]))
    names = [pictures.names[index] for index in indices]
    return lay_out(shown, columns, list(map(caption, indices)), names, title, legend)
