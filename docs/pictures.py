"""Draws the pictures of the pages, by running them: what a fence leaves in pyplot, for light and dark."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import matplotlib
from docutils import nodes
from matplotlib import pyplot
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.spines import Spine
from matplotlib.text import Text
from pages import PAGES, run
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

FOLDER = Path(__file__).parent / "pictures"
#: What is black on paper, for each of the two themes.
INKS = {"light": "#24292f", "dark": "#d6d8dc"}
#: Points beyond which a picture would be too small on a phone, and is scrolled instead.
WIDE = 550
matplotlib.rcParams["svg.hashsalt"] = "the same picture, the same file"


def is_ink(colour: Any) -> bool:
    """Whether a colour is black or a dark grey, which would vanish on a dark page."""
    red, green, blue = to_rgb(colour)
    return max(red, green, blue) < 0.35 and max(red, green, blue) - min(red, green, blue) < 0.05


def save(figure: Figure, name: str) -> None:
    """Write ``name-light.svg`` and ``name-dark.svg``, both without a background."""
    found = figure.findobj()
    dark = [artist for artist in found if isinstance(artist, Line2D) and is_ink(artist.get_color())]
    for theme, ink in INKS.items():
        for artist in found:
            if isinstance(artist, Text):
                artist.set_color(ink)
            elif isinstance(artist, Spine):
                artist.set_edgecolor(ink)
            elif isinstance(artist, Legend):
                artist.get_frame().set_alpha(0)
        for line in dark:
            line.set_color(ink)
        for axes in figure.axes:
            axes.tick_params(which="both", colors=ink)
        path = FOLDER / f"{name}-{theme}.svg"
        figure.savefig(path, transparent=True, metadata={"Date": None})


def draw(app: Sphinx) -> None:
    """Run each page that shows pictures, unless it has not changed since they were drawn."""
    FOLDER.mkdir(exist_ok=True)
    for page in PAGES:
        stamp = FOLDER / f"{page.stem}.stamp"
        if "](pictures/" not in page.read_text().replace("](../", "]("):
            continue
        if stamp.exists() and stamp.stat().st_mtime > page.stat().st_mtime:
            continue
        drawn = 0

        def keep(names: dict[str, Any], page: Path = page) -> None:
            nonlocal drawn
            for number in pyplot.get_fignums():
                drawn += 1
                save(pyplot.figure(number), f"{page.stem}-{drawn}")
            pyplot.close("all")

        here = os.getcwd()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                run(page, keep)
            finally:
                os.chdir(here)
        stamp.touch()


class LightAndDark(SphinxTransform):
    """One picture of a page becomes two, of which the theme shows one."""

    default_priority = 10

    def apply(self, **kwargs: Any) -> None:
        for image in list(self.document.findall(nodes.image)):
            if "pictures/" not in image["uri"]:
                continue
            both: list[nodes.Node] = []
            for theme in INKS:
                one = image.deepcopy()
                one["uri"] = image["uri"].replace(".svg", f"-{theme}.svg")
                one["classes"] += [f"only-{theme}", "picture"]
                width = re.search(r'width="([\d.]+)pt"', (FOLDER / Path(one["uri"]).name).read_text())
                if width and float(width[1]) > WIDE:
                    one["classes"].append("wide")
                both.append(one)
            image.parent.replace(image, both)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", draw)
    app.add_transform(LightAndDark)
    return {"parallel_read_safe": True}
