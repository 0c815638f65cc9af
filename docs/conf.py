"""The documentation: written pages, pages made from the register, pictures and formulas drawn as SVG."""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

import sampleprop  # noqa: E402
from extensions import pages  # noqa: E402

project = "sampleprop"
author = "the sampleprop authors"
copyright = author
release = sampleprop.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx_design",
    "sphinx_copybutton",
    "extensions.cells",
    "extensions.formulas",
    "extensions.pages",
    "extensions.picture",
]
exclude_patterns = ["_build"]
default_role = "py:obj"

myst_enable_extensions = ["dollarmath", "colon_fence", "attrs_inline"]
myst_heading_anchors = 3
nb_execution_mode = "off"

autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
napoleon_use_rtype = False

html_theme = "pydata_sphinx_theme"
html_title = "sampleprop"
html_math_renderer = "drawn"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_show_sphinx = False
html_show_sourcelink = False
html_sidebars: dict[str, list[str]] = {"index": []}
html_theme_options = {
    "logo": {"text": "sampleprop"},
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "secondary_sidebar_items": ["page-toc"],
    "article_header_start": [],
    "footer_start": ["copyright"],
    "footer_end": [],
    "navigation_with_keys": False,
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

INVENTORY = DOCS / "_build" / "torch.inv"
intersphinx_mapping = {"torch": ("https://docs.pytorch.org/docs/stable", str(INVENTORY))}

pages.write_inventory(DOCS / "extensions" / "torch.txt", INVENTORY)
pages.write_pages()
