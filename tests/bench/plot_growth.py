#!/usr/bin/env python3
"""Draws what growth_bench.py measured; needs matplotlib.

    plot_growth.py DATA.json DIR       writes time_by_size.png, time_by_world_size.png, memory_by_size.png
"""

import json
import pathlib
import statistics
import sys

import matplotlib
matplotlib.use("Agg")
from matplotlib import pyplot, ticker  # noqa: E402

SIZE_INCHES = (6.4, 4.0)


def medians(cases, key):
    return [statistics.median(case[key]) for case in cases]


def spread(axes, x, cases, key, label, **style):
    """Medians joined by a line, with the runs' range."""
    middle = medians(cases, key)
    low = [m - min(case[key]) for m, case in zip(middle, cases)]
    high = [max(case[key]) - m for m, case in zip(middle, cases)]
    axes.errorbar(x, middle, yerr=(low, high), marker="o", capsize=3, label=label, **style)


def finish(figure, axes, path, title, x_label, y_label):
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[1]:
        axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    print(path)


def draw(document, folder):
    folder.mkdir(parents=True, exist_ok=True)
    plain = [case for case in document["sizes"] if case["label"] == "llama"]
    gigabytes = [case["bytes"] / 1e9 for case in plain]
    ranks = plain[0]["world_size"]
    figure, axes = pyplot.subplots(figsize=SIZE_INCHES)
    spread(axes, gigabytes, plain, "seconds", "load")
    spread(axes, gigabytes, plain, "floor_seconds", "floor: read into memfd", linestyle="--", color="gray")
    axes.set_xlim(left=0)
    finish(figure, axes, folder / "time_by_size.png", f"Time by size of the model ({ranks} ranks)", "GB", "seconds")

    worlds = document["worlds"]
    if worlds:
        numbers = [case["world_size"] for case in worlds]
        figure, axes = pyplot.subplots(figsize=SIZE_INCHES)
        spread(axes, numbers, worlds, "seconds", "load")
        spread(axes, numbers, worlds, "floor_seconds", "floor: read into memfd", linestyle="--", color="gray")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(ticker.ScalarFormatter())
        axes.set_xticks(numbers)
        finish(figure, axes, folder / "time_by_world_size.png",
               f"Time by world size, one agent ({worlds[0]['bytes'] / 1e9:.2f} GB)", "ranks", "seconds")

    figure, axes = pyplot.subplots(figsize=SIZE_INCHES)
    megabytes = {id(case): max(case["anonymous_bytes"]) / 1e6 for case in document["sizes"]}
    axes.plot(gigabytes, [megabytes[id(case)] for case in plain], marker="o", label="llama")
    for case in document["sizes"]:
        if case["label"] != "llama":
            axes.plot([case["bytes"] / 1e9], [megabytes[id(case)]], marker="D", linestyle="none", label=case["label"])
    axes.axhline(document["most_anonymous_bytes"] / 1e6, color="firebrick", linestyle=":", label="limit")
    axes.set_xlim(left=0)
    finish(figure, axes, folder / "memory_by_size.png", f"Anonymous memory beside the shards ({ranks} ranks)", "GB",
           "MB, most of all runs")


if __name__ == "__main__":
    draw(json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")), pathlib.Path(sys.argv[2]))
