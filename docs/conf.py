"""Settings of Sphinx."""

from __future__ import annotations

project = "nixfetch"
author = "the nixfetch maintainers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "nixfetch"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
myst_heading_anchors = 3
nitpicky = False
suppress_warnings = ["myst.xref_missing"]
