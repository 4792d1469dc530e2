"""The table of a benchmark: Markdown for people, CSV for programs, and a picture."""

import csv
import io
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from benchmarks.serving.rounds import Figures
from benchmarks.serving.settings import Setting
from nano_cv.data.images import encode_png
from nano_cv.evaluation.drawing import Drawing, chart_style, make_figure, render
from nano_cv.evaluation.tables import CSV, cell
from nano_cv.files import replacing, write_whole
from nano_cv.metadata import git_commit

COLUMNS = ("latency50", "latency90", "latency99", "throughput", "lower", "upper", "windows")


def machine() -> str:
    """Processor, cores, date and commit, for the line below a table."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (cpuinfo.read_text().splitlines() if cpuinfo.exists() else ())
        if line.startswith("model name")
    ]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores, {date.today()}, commit {git_commit() or 'none'}"


def markdown(settings: Mapping[Setting, Figures], rows: Mapping[str, Figures]) -> str:
    """Two tables: settings, as people compare them; then rows measured side by side.

    The first row of `rows` is the ceiling, of which the others are given as shares.
    """
    text = io.StringIO()
    head = "latency90 µs | latency99 µs | throughput inf/s | quartiles"
    text.write(f"| precision | instances | delay µs | threads | batch | {head} |\n")
    text.write(f"|:--|{'--:|' * 8}\n")
    for setting, figures in settings.items():
        cells = ("none" if value is None else str(value) for value in setting)
        text.write(f"| {' | '.join(cells)} | {_cells(figures)} |\n")
    text.write(f"\n| side by side | {head} | of the first row |\n|:--|{'--:|' * 5}\n")
    ceiling = next(iter(rows.values())).throughput
    for name, figures in rows.items():
        text.write(f"| {name} | {_cells(figures)} | {figures.throughput / ceiling:.2f} |\n")
    text.write(f"\n{machine()}\n")
    return text.getvalue()


def _cells(figures: Figures) -> str:
    return (
        f"{figures.latency90:.0f} | {figures.latency99:.0f} | {figures.throughput:.1f} | "
        f"{figures.lower:.0f} to {figures.upper:.0f}"
    )


def write(folder: Path, settings: Mapping[Setting, Figures], rows: Mapping[str, Figures]) -> str:
    """Write `benchmark.md`, `benchmark.csv` and `benchmark.png`; returns the Markdown."""
    text = markdown(settings, rows)
    with replacing(folder / "benchmark.md") as temporary:
        temporary.write_text(text)
    write_whole(folder / "benchmark.png", encode_png(draw(settings, rows)))
    with replacing(folder / "benchmark.csv") as temporary, temporary.open("w", **CSV) as output:
        writer = csv.writer(output, lineterminator="\n")
        writer.writerow(["row", *Setting._fields, *COLUMNS, machine()])
        for setting, figures in settings.items():
            writer.writerow(["setting", *setting, *_values(figures)])
        for name, figures in rows.items():
            writer.writerow([cell(name), *[""] * len(Setting._fields), *_values(figures)])
    return text


def _values(figures: Figures) -> Sequence[float]:
    return [round(getattr(figures, column), 1) for column in COLUMNS]


@chart_style()
def draw(settings: Mapping[Setting, Figures], rows: Mapping[str, Figures]) -> Drawing:
    """Throughput and p99 over the delay, a line for each number of instances, threads and batch."""
    figure = make_figure(9, 3.8)
    left, right = figure.subplots(1, 2)
    for line in dict.fromkeys(setting._replace(delay_us=0) for setting in settings):
        points = [
            (setting.delay_us, figures)
            for setting, figures in settings.items()
            if setting._replace(delay_us=0) == line
        ]
        delays = ["none" if delay is None else str(delay) for delay, _ in points]
        label = f"{line.precision}, {line.instances} x {line.threads} threads, batch {line.batch}"
        middle = [figures.throughput for _, figures in points]
        spread = [
            [figures.throughput - figures.lower for _, figures in points],
            [figures.upper - figures.throughput for _, figures in points],
        ]
        left.errorbar(delays, middle, spread, marker="o", capsize=3, label=label)
        right.plot(delays, [figures.latency99 / 1000 for _, figures in points], marker="o")
    for name, figures in rows.items():
        left.axhline(figures.throughput, color="grey", linewidth=0.8, linestyle=":")
        left.annotate(name, (0, figures.throughput), fontsize=6, va="bottom", color="grey")
    left.set(
        xlabel="queue delay, µs (none: single requests)",
        ylabel="inferences a second",
        ylim=(0, None),
    )
    right.set(
        xlabel="queue delay, µs (none: single requests)", ylabel="p99 latency, ms", ylim=(0, None)
    )
    left.legend(fontsize=7)
    return render(figure)
