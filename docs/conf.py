"""Sphinx: the pages of this folder as a site. ``make docs`` builds it."""

import medrd

project = "medrd"
author = copyright = "the medrd contributors"
release = version = medrd.__version__

extensions = ["myst_parser"]
myst_heading_anchors = 3  # links such as protocol.md#leakage

html_theme = "alabaster"
html_static_path = ["_static"]  # custom.css
html_theme_options = {
    "description": "Unsupervised anomaly detection in brain MRI. Research use only.",
    "fixed_sidebar": True,
    "page_width": "1200px",
    "show_powered_by": False,
    "body_max_width": "none",  # the tables of results are wide
}
html_sidebars = {"**": ["about.html", "searchfield.html", "navigation.html"]}
html_show_sourcelink = False
