"""The site: ``sphinx-build -W --keep-going docs docs/_build/html``, where the extra "docs" is installed."""

import io
import os
from contextlib import redirect_stdout
from unittest import mock

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

import fastconv
from fastconv import cli

project = "fastconv"
author = "The fastconv authors"
copyright = author
version = release = fastconv.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_parser",
    "sphinx_design",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "scripts", "gen_modules", "**/GALLERY_HEADER.rst"]
templates_path = ["_templates"]
default_role = "py:obj"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

# The reference: signatures as one reads them aloud; what the arguments may be stands under "Parameters".
autosummary_generate = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
add_module_names = False
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
numpydoc_use_plots = False

# Prompts and results are left out of what is copied.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"

GALLERIES = ("tutorial", "questions", "gallery")
sphinx_gallery_conf = {
    "examples_dirs": [f"scripts/{name}" for name in GALLERIES],
    "gallery_dirs": list(GALLERIES),
    "within_subsection_order": "FileNameSortKey",
    "backreferences_dir": "gen_modules/backreferences",
    "doc_module": ("fastconv",),
    "reference_url": {"fastconv": None},
    "download_all_examples": False,
    "show_signature": False,
    "min_reported_time": 1e9,
    "write_computation_times": False,
    "remove_config_comments": True,
}

html_theme = "pydata_sphinx_theme"
html_context = {"default_mode": "auto"}
html_title = "fastconv"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sourcelink = False
html_copy_source = False
# Summaries of what was found would be fetched page by page, which a browser refuses for pages on a disk.
html_show_search_summary = False
html_sidebars = {"promises": []}
html_theme_options = {
    "logo": {"text": "fastconv"},
    "header_links_before_dropdown": 8,
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "secondary_sidebar_items": {"**": ["page-toc"], "index": []},
    "footer_start": ["copyright"],
    "footer_end": [],
}


class CommandHelp(SphinxDirective):
    """What a command prints for ``--help``: ``command-help:: bench``; without a name, the program's own."""

    optional_arguments = 1

    def run(self):
        """Call the command line here and now, so that the page can't differ from it."""
        printed = io.StringIO()
        with mock.patch.dict(os.environ, COLUMNS="72", NO_COLOR="1"), redirect_stdout(printed):
            code = cli.main([*self.arguments, "--help"])
        if code:
            raise self.error(f"fastconv {' '.join(self.arguments)} --help ended with {code}")
        return [nodes.literal_block(printed.getvalue(), printed.getvalue(), language="text")]


def signature(app, kind, name, value, options, arguments, returned):
    """What functions make is shown without how its class is called, which is nobody's concern."""
    return ("", "") if name in ("fastconv.ConvPlan", "fastconv.Explanation") else None


def setup(app):
    """Add the directive and the hook."""
    app.add_directive("command-help", CommandHelp)
    app.connect("autodoc-process-signature", signature, priority=1)
