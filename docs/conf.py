"""Sphinx: build these pages, and with `-t man` the manual page architrave(1)."""

from __future__ import annotations

import sys
from pathlib import Path

from agent import __version__

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "architrave"
author = "the architrave authors"
project_copyright = author
version = release = __version__
extensions = ["myst_parser", "sphinx_copybutton", "reference", "repository"]
nitpicky = True

# What is typed, without the prompt.
copybutton_prompt_text = "$ "
copybutton_exclude = ".linenos, .gp, .go"

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4

# The manual page repeats what other pages have, so it is a build of its own.
if tags.has("man"):  # type: ignore[name-defined]  # noqa: F821
    root_doc = "man"
    include_patterns = ["man.md"]
else:
    exclude_patterns = ["man.md"]
man_pages = [
    ("man", "architrave", "run a closed-source program on AWS Lambda, AWS Batch, a laptop", "", 1)
]

html_theme = "furo"
html_title = f"architrave {release}"
html_static_path = ["static"]
html_css_files = ["architrave.css"]
html_copy_source = False
# The schemas of run.json, by their file names.
html_extra_path = ["schemas"]
html_use_index = False
linkcheck_timeout = 20
linkcheck_retries = 2
# Places of the reader's own machine.
linkcheck_ignore = [r"http://(localhost|127\.0\.0\.1)"]
