"""The site: ``make docs`` builds it, draws what its pages draw, and follows every link in it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

project = "pure_sgd"
author = "The pure_sgd authors"
html_title = "pure_sgd"
copyright = author
html_show_copyright = False

# What each part of the build does is told in the file of its name, beside this one.
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
extensions += ["cells", "rooms", "pictures", "links"]

exclude_patterns = ["_build"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
napoleon_custom_sections = ["Source"]
napoleon_use_rtype = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autosummary_generate = False
add_module_names = False
copybutton_exclude = ".linenos, .gp, .go"
pygments_style = "tango"
pygments_dark_style = "monokai"

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]


def copy_benchmarks(app: Sphinx) -> None:
    """The measured table is a page here as well; what it links to lies beside the original."""
    table = (HERE.parent / "benchmarks" / "RESULTS.md").read_text()
    (HERE / "benchmarks.md").write_text(re.sub(r"\]\((\w+\.(?:py|png))\)", r"](../benchmarks/\1)", table))


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", copy_benchmarks)
