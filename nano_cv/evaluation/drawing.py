"""Pictures of results: drawn off-screen, returned as uint8 RGB arrays `[H, W, 3]`.

Matplotlib takes half a second to load, so only what draws with it imports it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from nano_cv.data import images
from nano_cv.data.pictures import Pictures
from nano_cv.errors import one_line
from nano_cv.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)
Given = ParamSpec("Given")
Drawing = NDArray[np.uint8]
OKABE_ITO = ("56b4e9", "e69f00", "009e73", "f0e442", "0072b2", "d55e00", "cc79a7")
WIDTH = 10.4  # inches of a contact sheet
LETTERS = 14  # of a caption, that an inch has room for
LONGEST = 24  # letters of the name of a class
SIDE = 480  # pixels; the longest side of a picture that is drawn upon
FEW = 12  # classes; of more, a confusion matrix leaves its noughts out
CLASSES = 30  # in a confusion matrix; of more, only the most confused are shown
FONTS = (  # the first comes with matplotlib; the others, for further scripts, with systems
    *("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Hiragino Sans GB"),
    *("Arial Unicode MS", "Microsoft YaHei", "Malgun Gothic", "WenQuanYi Zen Hei"),
)


def literal(draw: Callable[Given, Drawing]) -> Callable[Given, Drawing]:
    """Draw text as it stands: `$` and `_` in the names of classes and files are not TeX."""

    @wraps(draw)
    def draw_literally(*given: Given.args, **options: Given.kwargs) -> Drawing:
        import matplotlib

        settings: Any = {"text.parse_math": False, "text.usetex": False}
        with matplotlib.rc_context(settings | {"font.family": known_fonts()}):
            return draw(*given, **options)

    return draw_literally


@cache
def known_fonts() -> list[str]:
    """The names in `FONTS` of the fonts on this machine."""
    from matplotlib.font_manager import fontManager

    known = {font.name for font in fontManager.ttflist}
    return [name for name in FONTS if name in known]


@cache
def fonts() -> dict[str, frozenset[int]]:
    """The code points that each font file has a glyph for."""
    from matplotlib.font_manager import findfont, get_font

    files = [findfont(name) for name in known_fonts()]
    return {file: frozenset(get_font(file).get_charmap()) for file in files}


def make_figure(width: float, height: float, dpi: int) -> "Figure":
    """An empty figure of so many inches, whose parts make room for each other."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=dpi, layout="constrained")


def shown(text: str, longest: int = LONGEST, file: str = "") -> str:
    """A text that can be drawn, on one line; the middle of a long text is left out.

    A character that cannot be seen, or that no font (or not the font of `file`) has a glyph for,
    becomes its escape, such as `\\n` or `\\u732b`.
    """
    glyphs = [fonts()[file]] if file else fonts().values()
    text = "".join(
        letter
        if letter.isprintable() and any(ord(letter) in font for font in glyphs)
        else letter.encode("unicode_escape").decode()
        for letter in text
    )
    half = (longest - 1) // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"


def write(pen: ImageDraw.ImageDraw, x: float, y: float, text: str, fill: str = "") -> None:
    """Write a short text on a picture, upon a ground of the colour `fill` if given.

    Pillow's own font has few letters, and its pen raises an error at some others.
    """
    file = next((file for file, font in fonts().items() if font.issuperset(map(ord, text))), None)
    file = file or next(iter(fonts()))
    text, font = shown(text, file=file), ImageFont.truetype(file, 10)
    if fill:
        pen.rectangle(pen.textbbox((x, y), text, font=font), fill=fill)
    pen.text((x, y), text, fill="black", font=font)


def keep(
    name: str,
    draw: Callable[[], Drawing],
    folder: Path,
    log_drawing: Callable[[str, Drawing], None] | None = None,
) -> None:
    """Draw `<name>.png` into `folder` and log the picture; a failure is a warning, no error.

    A picture to look at is not worth a training, or the drawings that follow.
    """
    try:
        drawing = draw()
        save(drawing, folder / f"{name}.png")
    except Exception as error:  # anything that names, sizes and a full disk can cause
        log.warning("%s.png could not be drawn, and is left out: %s", name, one_line(error))
        log.debug("%s.png", name, exc_info=error)
        return
    if log_drawing:
        log_drawing(name, drawing)


def render(figure: "Figure") -> Drawing:
    """The pixels of a figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save(drawing: Drawing, file: Path) -> None:
    """Write a PNG, whole or not at all."""
    with replacing(file) as temporary:
        Image.fromarray(drawing).save(temporary, format="PNG")


@literal
def confusion_matrix(
    counts: NDArray[np.int64], classes: Sequence[str], unit: str = "pictures"
) -> Drawing:
    """Rows are the truth, columns the prediction; colour is the share of the row.

    Args:
        counts: of pictures or pixels, `[K, K]`.
        classes: K names. Of more than `CLASSES` the most confused are shown, and all others as one
            column.
        unit: what was counted. The cells say how many pictures; of pixels, the percentage of the
            row, for their numbers would be too long and say nothing.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    rows: NDArray[np.int64] = np.arange(len(classes))
    columns = [shown(name) for name in classes]
    title = f"{np.trace(counts) / max(counts.sum(), 1):.1%} of {counts.sum():,} {unit} right"
    if len(classes) > CLASSES:
        rows = _most_confused(counts if unit == "pictures" else shares, CLASSES - 5)
        title += f"\nthe {len(rows)} most confused of {len(classes):,} classes"
        others = np.delete(np.arange(len(classes)), rows)
        columns = [*(columns[row] for row in rows), f"{len(others):,} others"]
        cut: list[NDArray[Any]] = [
            np.column_stack([each[np.ix_(rows, rows)], each[np.ix_(rows, others)].sum(axis=1)])
            for each in (counts, shares)
        ]
        counts, shares = cut
    side = max(4.0, 1.6 + 0.75 * len(columns))
    figure = make_figure(side, side, dpi=120)
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        if not share and len(columns) > FEW:
            continue
        text = str(counts[row, column]) if unit == "pictures" else _percent(share)
        colour = "white" if share > 0.5 else "black"
        axes.text(column, row, text, ha="center", va="center", color=colour, in_layout=False)
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right")
    axes.set_yticks(range(len(rows)), columns[: len(rows)])
    axes.set(xlabel="predicted", ylabel="true")
    if unit != "pictures":
        title += "\n% of each true class"
    axes.set_title(title, fontsize=11)
    return render(figure)


def _percent(share: float) -> str:
    """Nothing and almost nothing are told apart, as are all and almost all."""
    if share in (0, 1):
        return f"{share:.0%}".rstrip("%")
    return f"{min(max(100 * share, 0.1), 99.9):.1f}"


def _most_confused(wrong: NDArray[Any], most: int) -> NDArray[np.int64]:
    """The classes of the worst pairs in a confusion matrix `[K, K]`, and then the commonest."""
    commonest = np.argsort(-wrong.sum(axis=1), kind="stable")
    wrong = wrong * (1 - np.eye(len(wrong), dtype=wrong.dtype))
    worst = np.argsort(-wrong, axis=None, kind="stable")[: int((wrong > 0).sum())]
    pairs = np.column_stack(np.unravel_index(worst[: most**2], wrong.shape))
    chosen = list(dict.fromkeys([*pairs.ravel().tolist(), *commonest.tolist()]))
    return np.sort(chosen[:most])


@literal
def sheet(
    pictures: Pictures,
    indices: Sequence[int],
    captions: Sequence[str],
    paint: Callable[[Drawing, int], Drawing] | None = None,
    columns: int = 4,
    title: str = "",
) -> Drawing:
    """A contact sheet of some pictures, each with its caption and its file's name.

    Args:
        pictures: all of them.
        indices: which to show.
        captions: of all of them.
        paint: draws upon a picture `[H, W, 3]`, of which it is told the index.
        columns: of the sheet.
        title: above all of them.
    """
    cells = []
    for index in indices:
        picture = images.decode(pictures.files[index], SIDE)
        picture.thumbnail((2 * SIDE, 2 * SIDE))  # matplotlib would keep four copies of all pixels
        cells.append(np.asarray(picture))
    cells = [paint(image, i) if paint else image for image, i in zip(cells, indices, strict=True)]
    names, shapes = pictures.names, [image.shape[0] / image.shape[1] for image in cells] or [0.5]
    rows = [shapes[start : start + columns] for start in range(0, len(shapes), columns)]
    heights = [max(row) * WIDTH / columns + 0.5 for row in rows]  # inches
    figure = make_figure(WIDTH, sum(heights), dpi=100)
    places = figure.add_gridspec(len(rows), columns, height_ratios=heights)
    for position, (image, index) in enumerate(zip(cells, indices, strict=True)):
        axes = figure.add_subplot(places[position])
        axes.imshow(image)
        room = int(LETTERS * WIDTH / columns)
        lines = [shown(line, room) for line in captions[index].split("\n")]
        axes.set_title("\n".join(lines), fontsize=9)
        axes.set_xlabel(shown(names[index], room * 9 // 7), fontsize=7)
        axes.set(xticks=[], yticks=[])
    if title:
        figure.suptitle(title, fontsize=10)
    if not indices:
        figure.text(0.5, 0.5, "nothing to show: no mistakes", ha="center")
    return render(figure)


def evenly(count: int, most: int) -> range:
    """At most `most` of `count` indices, evenly: a list may be sorted, its beginning all alike."""
    return range(0, count, max(1, -(-count // most)))


def outline(
    image: Drawing,
    boxes: NDArray[np.float32],
    colours: Sequence[str],
    captions: Sequence[str] = (),
) -> Drawing:
    """Draw boxes `[N, 4]` xyxy upon a picture, at a size that leaves thin lines visible."""
    scale = SIDE / max(image.shape[:2])
    canvas = Image.fromarray(image)
    canvas = canvas.resize((round(canvas.width * scale), round(canvas.height * scale)))
    pen = ImageDraw.Draw(canvas)
    for index, box in enumerate(boxes * scale):
        pen.rectangle(box.tolist(), outline=colours[index], width=2)
        if captions:
            x, y = float(box[0]), max(0.0, float(box[1]) - 12)
            write(pen, x, y, captions[index], colours[index])
    return np.asarray(canvas)


def indexed(mask: NDArray[np.uint8]) -> Image.Image:
    """A palette picture: its numbers are class indices, its colours those of all drawings."""
    picture = Image.fromarray(mask)
    picture.putpalette(palette(256).tobytes())
    return picture


def palette(count: int) -> NDArray[np.uint8]:
    """Colours `[count, 3]` of classes, black first.

    Then those of Okabe and Ito (2008), which the colour-blind can tell apart, then Pascal VOC's.
    """
    index, colours = np.arange(count), np.zeros((count, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((index >> channel & 1) << 7 - bit).astype(np.uint8)
        index >>= 3
    first = [tuple(bytes.fromhex(colour)) for colour in OKABE_ITO]
    colours[1 : len(first) + 1] = first[: max(0, count - 1)]
    return colours


def overlay(image: Drawing, mask: NDArray[np.uint8]) -> Drawing:
    """A picture under the colours of its mask of class indices; class 0 stays clear.

    The mask, uint8 `[h, w]`, may be larger than the picture, which was decoded to be drawn.
    """
    height, width = image.shape[:2]
    mask = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    strength = np.where(mask == 0, 0.0, 0.5)[..., None]
    return (image * (1 - strength) + palette(256)[mask] * strength).astype(np.uint8)


@literal
def curves(
    lines: Mapping[str, NDArray[np.float64]], xlabel: str, ylabel: str, title: str = ""
) -> Drawing:
    """Named lines `[N]` over 0..1; matplotlib's legend leaves out names that begin with `_`."""
    figure = make_figure(7 if len(lines) > 4 else 5, 4.2, dpi=120)
    axes = figure.add_subplot()
    for index, (name, line) in enumerate(lines.items()):
        style = "-" if index < 10 else "--"  # there are ten colours
        axes.plot(np.linspace(0, 1, len(line)), line, style, label=shown(name, LONGEST + 8))
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=xlabel, ylabel=ylabel)
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    if len(lines) > 4:
        figure.legend(fontsize=8, loc="outside right upper")
    elif lines:
        axes.legend(fontsize=8)
    return render(figure)


@literal
def draw_epochs(rows: Sequence[Mapping[str, float]], best: Mapping[str, float] | None) -> Drawing:
    """Learning curves: losses on the left, validation metrics on the right, over the epochs.

    Args:
        rows: the figures of each epoch by name, with its number as `epoch`.
        best: the row of the best epoch, which a dashed line marks.
    """
    # Figures of single classes, such as `val/recall/<class>`, would be too many lines.
    names = dict.fromkeys(name for row in rows for name in row if name.count("/") == 1)
    losses = [name for name in names if "loss" in name]
    parts = [losses, [name for name in names if name not in losses]]
    figure = make_figure(10, 4.2, dpi=120)
    for axes, part, title in zip(
        figure.subplots(1, 2), parts, ("losses", "validation metrics"), strict=True
    ):
        for name in part:
            known = [(row["epoch"], row[name]) for row in rows if name in row]
            axes.plot(*zip(*known, strict=True), marker=".", label=shown(name))
        if best:
            label = f"best epoch: {best['epoch']:.0f}"
            axes.axvline(best["epoch"], color="grey", linestyle="--", label=label)
        axes.set(xlabel="epoch", title=title)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return render(figure)


def grid(pixels: NDArray[np.uint8], columns: int) -> Drawing:
    """Images uint8 `[N, 3, H, W]` side by side, without words."""
    count, _, height, width = pixels.shape
    rows = -(-count // columns)
    canvas = np.full((rows * columns, height + 2, width + 2, 3), 255, np.uint8)
    canvas[:count, 1:-1, 1:-1] = pixels.transpose(0, 2, 3, 1)
    tiled = canvas.reshape(rows, columns, height + 2, width + 2, 3).transpose(0, 2, 1, 3, 4)
    return tiled.reshape(rows * (height + 2), columns * (width + 2), 3)
