"""The site that ``make docs`` builds: these pages, the README and its like, and the docstrings of public names.

The source folder is the checkout, so a link leads to the same place here and in the repository; what is no page is
copied into the site. Neither the build nor a reader needs the network.
"""

import shutil
import sys
from pathlib import Path

from docutils.nodes import document
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "runtime"))

from sparklet import __version__  # noqa: E402 - of the checkout

project = "Sparklet"
version = __version__
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md", "examples/cdk/README.md"]
exclude_patterns = [".*", "build", "dist"]  # not to be looked through
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
copybutton_exclude = ".linenos, .gp, .go"  # a prompt, and what a command prints, is nobody's to type
myst_heading_anchors = 4  # named as on GitHub
highlight_language = "none"  # of a block that names none

nitpick_ignore_regex = [  # other libraries; type variables; what users neither make nor read
    ("py:.*", r"(collections|concurrent|os|pathlib)\..*"),
    ("py:class", "DataFrame|SparkSession|StructType|P"),
    ("py:class", r"sparklet\.functions\.\w+\.T"),
    ("py:class", r".*\.(Backend|Outcome)"),
]
autodoc_mock_imports = ["pyspark"]
autodoc_preserve_defaults = True  # os.environ as a default is this name, not the builder's environment
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
napoleon_google_docstring = False

html_theme = "furo"
html_title = f"Sparklet {version}"
html_copy_source = False
by_keys = "document.querySelectorAll('pre, .table-wrapper').forEach((each) => { each.tabIndex = 0; })"  # to scroll
html_js_files = [(None, {"body": f"addEventListener('DOMContentLoaded', () => {by_keys})"})]
html_search_scorer = str(ROOT / "docs/search.js")
html_show_copyright = False

SCHEMAS = ["docs/schemas", "docs/reference", "runtime/sparklet/model"]
LISTED_IN = {  # folders that pages link to: the page, and its section
    "docs/decisions/": ("docs/decisions/index", None),
    "examples/": ("docs/guide/functions", None),
    "spark_scripts/": ("docs/guide/scripts", "the-examples"),
}


def link_folders(app: Sphinx, doctree: document) -> None:
    """Lead from a link to a folder to the page that lists its files."""
    for node in doctree.findall(pending_xref):
        if node["reftarget"] in LISTED_IN:
            page, section = LISTED_IN[node["reftarget"]]
            node.attributes.update(refdomain="doc", reftarget=page, reftargetid=section)


def publish(app: Sphinx, error: Exception | None) -> None:
    """Put the JSON Schemas to addresses that stay, and a first page to the top."""
    if error is None and app.builder.format == "html":
        (schemas := Path(app.outdir) / "schemas").mkdir(exist_ok=True)
        for path in (path for folder in SCHEMAS for path in (ROOT / folder).glob("*.json")):
            shutil.copyfile(path, schemas / path.name)
        to = f"{root_doc}.html"
        page = f'<!doctype html><title>{project}</title><meta http-equiv="refresh" content="0; url={to}">'
        (Path(app.outdir) / "index.html").write_text(f'{page}<a href="{to}">{project}</a>\n', encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.connect("doctree-read", link_folders)
    app.connect("build-finished", publish)
