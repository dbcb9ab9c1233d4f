"""Configuration of the site, which `sphinx-build -W -b html docs docs/_build` builds."""

import inspect
import re
from pathlib import Path

import jupytext

import tfp_bayes

HERE = Path(__file__).parent

project = "tfp_bayes"
author = "the authors of tfp_bayes"
version = release = tfp_bayes.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # training takes minutes; the pictures come from full runs
exclude_patterns = ["_build", "jupyter_execute"]

html_theme = "furo"
html_title = f"tfp_bayes {version}"
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False

# As in Markdown, single backticks in docstrings mark code, and bars and underscores are literal.
default_role = "code"
napoleon_custom_sections = ["Randomness", "Losses", "Reference", "Example"]
napoleon_use_ivar = True  # otherwise attributes are described twice
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings give shapes and units, which type hints do not
autodoc_default_options = {
    "members": True,
    "exclude-members": "build, call, get_config, from_config, compute_output_shape, "
    "compute_output_spec, save_own_variables, load_own_variables, compute_mask",
}


def escape_markup(app, what, name, obj, options, lines):
    """Escapes characters that reStructuredText reads as substitutions or references."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            parts = re.split(r"(`+[^`]*`+)", line)  # odd parts are code
            parts[::2] = [re.sub(r"([|]|(?<=\w)_(?!\w))", r"\\\1", text) for text in parts[::2]]
            lines[i] = "".join(parts)


def show_constructor(app, what, name, obj, options, signature, return_annotation):
    """Returns the signature of a constructor, which `keras.Layer.__new__` hides."""
    if what != "class" or not inspect.isfunction(obj.__init__):
        return None
    _, *arguments = inspect.signature(obj.__init__).parameters.values()
    plain = [argument.replace(annotation=inspect.Parameter.empty) for argument in arguments]
    return str(inspect.Signature(plain)), None


def link_results(app, docname, source):
    """Changes the links to the study's tables to the copies of `write_results`."""
    if docname == "study":
        source[0] = re.sub(r"\.\./examples/study/(results/\w+\.md)", r"\1", source[0])


def write_results() -> None:
    """Writes the study's tables to a folder that git ignores."""
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    for path in (HERE.parent / "examples/study/results").glob("*.md"):
        table = path.read_text().replace("](", "](../../examples/study/results/")
        (folder / path.name).write_text(f"---\norphan: true\n---\n\n{table}")


def write_notebooks() -> None:
    """Writes the examples as notebooks to a folder that git ignores."""
    folder = HERE / "examples"
    folder.mkdir(exist_ok=True)
    for path in sorted((HERE.parent / "examples").glob("[0-9]*.py")):
        notebook = jupytext.read(path, fmt="py:percent")
        for cell in notebook.cells:
            cell.source = cell.source.replace("](../docs/", "](../")
        notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "python"}
        jupytext.write(notebook, folder / f"{path.stem}.ipynb")


def setup(app):
    """Connects the functions that change texts before Sphinx reads them."""
    app.connect("autodoc-process-docstring", escape_markup)
    app.connect("autodoc-process-signature", show_constructor)
    app.connect("source-read", link_results)


write_results()
write_notebooks()
