"""The documentation: Sphinx, Markdown by MyST, the Python interface by autodoc."""

project = "mnist_sweep"
author = "The mnist_sweep authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "mnist_sweep"
exclude_patterns = ["_build"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
