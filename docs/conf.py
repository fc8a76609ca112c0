"""How the pages become a site; `make docs` builds it.

Sphinx's source is the whole project, so every link is the plain relative path that also works in a
repository browser: from a page to README.md, from CONTRIBUTING.md to a record. Nothing is fetched.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

from docutils import nodes
from pygments.lexers.special import TextLexer
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import edge_mer

project = "edge-mer"
author = "the edge-mer contributors"
project_copyright = author
version = release = edge_mer.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
include_patterns = ["docs/**.md", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
exclude_patterns = [".*", "build", "demo", "dist", "edge_mer", "export", "calibration", "tests", "benchmarks"]
root_doc = "docs/index"
templates_path = ["_templates"]

html_theme = "furo"
html_title = f"edge-mer {version}"
html_additional_pages = {"index": "to_index.html"}
html_copy_source = False
html_show_sphinx = False

myst_heading_anchors = 4
myst_enable_extensions = ["html_image"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "exclude-members": "model_config"}  # pydantic's own
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 88

# Other names are not looked up: those of other projects would need a network, and ours below the public
# ones have no page. A public name must lead to its place.
nitpick_ignore_regex = [("py:.*", r"(?!edge_mer\.\w+$).*")]

LISTS = ("docs/index", "docs/decisions/README")
"""Pages whose lists of links make the site's navigation: a heading, and the pages below it."""


def list_to_toctree(_: Sphinx, page: str, source: list[str]) -> None:
    """Give a page of lists a hidden table of contents per heading; the lists stay as they are."""
    if page not in LISTS:
        return
    made = ""
    for heading, text in re.findall(r"^## (.+)\n((?:(?!^## ).*\n?)*)", source[0], flags=re.MULTILINE):
        entries = re.findall(r"^- \[([^\]]+)\]\(([^)#\s]+)\.md\)", text, flags=re.MULTILINE)
        if entries:
            lines = "\n".join(f"{words} <{PurePosixPath(path)}>" for words, path in entries)
            made += f"\n```{{toctree}}\n:hidden:\n:caption: {heading}\n\n{lines}\n```\n"
    source[0] += made


def resolve_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Node
) -> nodes.Node | None:
    """A type is documented as `edge_mer.X`, whichever module it lives in."""
    name = str(node.get("reftarget", "")).rpartition(".")[2]
    if node.get("refdomain") != "py" or name not in edge_mer.__all__:
        return None
    domain: Any = env.get_domain("py")
    found: nodes.Node | None = domain.resolve_xref(
        env, node["refdoc"], app.builder, "obj", f"edge_mer.{name}", node, content
    )
    return found


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_lexer("csv", TextLexer)
    app.connect("source-read", list_to_toctree)
    app.connect("missing-reference", resolve_public_name)
