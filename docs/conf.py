"""How Sphinx builds these pages: MyST for the text, autodoc for the public names. No network is needed."""

import enum
import importlib
import inspect
import re
import sys
from pathlib import Path

from sphinx.util.inspect import stringify_signature

import controlrnn.errors

project = "controlrnn"
author = "the controlrnn authors"
project_copyright = author
release = version = controlrnn.__version__

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))
from notebooks import AROUND  # noqa: E402

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "_extensions", "_templates"]
templates_path = ["_templates"]

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3

# Scripts of examples/ run here: their pages, pictures and notebooks are made of them. An error ends the build.
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "image_scrapers": ("figures",),  # docs/_extensions/figures.py
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    **AROUND,
}

# Public names, one page each, from the `__all__` of each package that api.md lists.
autosummary_generate = True
autosummary_ignore_module_all = False
autosummary_imported_members = True
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_numpy_docstring = False
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "pydata_sphinx_theme"
html_title = f"controlrnn {release}"
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {"show_toc_level": 2, "secondary_sidebar_items": ["page-toc"]}

PACKAGES = re.findall(r"^   ([\w.]+)$", (Path(__file__).parent / "api.md").read_text(), re.MULTILINE)
PUBLIC = {package: importlib.import_module(package).__all__ for package in PACKAGES}
PUBLIC["controlrnn.errors"] = [name for name, thing in vars(controlrnn.errors).items() if inspect.isclass(thing)]
HOMES = {name: package for package in reversed(PUBLIC) for name in PUBLIC[package]}  # where to import a name from


def _same(name: str, package: str) -> bool:
    return getattr(importlib.import_module(package), name) is getattr(importlib.import_module(HOMES[name]), name)


def _is(kind, name: str, package: str) -> bool:
    return kind(getattr(importlib.import_module(package), name))


# What has no docstring of its own; a public value that is not described here ends the build.
VALUES = {
    "MATRICES": "Names of the matrices of a `LureSystem`, in the order of its fields.",
    "PLANTS": "A function that makes each plant, by name: what the contract suite of plants runs over.",
}
# Names that a package only hands on are described once.
autosummary_context = {
    "handed_on": {p: [n for n in PUBLIC[p] if p != HOMES[n] and _same(n, p)] for p in PACKAGES},
    "modules_of": {p: [n for n in PUBLIC[p] if _is(inspect.ismodule, n, p)] for p in PACKAGES},
    "values_of": {
        p: {n: VALUES[n] for n in PUBLIC[p] if not _is(callable, n, p) and not _is(inspect.ismodule, n, p)}
        for p in PACKAGES
    },
}


def _role(match: re.Match[str], here: str) -> str:
    """`text` of a docstring: a link if it starts with a public name (the one of `here` first), else code."""
    text = match[1]
    home, _, name = text.rpartition(".")
    if not home:
        home = here if name in PUBLIC[here] else HOMES.get(name, "")
    return f":py:obj:`{text} <{home}.{name}>`" if name in PUBLIC.get(home, ()) else f"``{text}``"


def as_restructured_text(_app, what, name, thing, _options, lines):
    """Docstrings are read as Markdown is: `x` is code or a link, |x| an absolute value; indented blocks stay."""
    if what in ("attribute", "property"):
        _put_together(lines)
    here = max((p for p in PUBLIC if name == p or name.startswith(p + ".")), key=len)
    literal_below = None  # the indentation of the line that opened a literal block
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if literal_below is not None and line.strip() and indent <= literal_below:
            literal_below = None
        if literal_below is None:
            if line.rstrip().endswith("::"):
                literal_below = indent
            if shape := re.match(r"(\s*:(?:type \w+|rtype):) ([^`]+)$", line):
                lines[i] = f"{shape[1]} ``{shape[2].strip()}``"  # shapes and units, nothing to link to
                continue
            parts = line.split("``")  # every second one is code already
            lines[i] = "``".join(part if k % 2 else _inline(part, here) for k, part in enumerate(parts))
    if "see the module docstring" in "\n".join(lines).lower() and what in ("class", "function", "exception"):
        lines += _background(thing)


def _background(thing) -> list[str]:
    """The module docstring that a docstring refers to, word for word."""
    text = (sys.modules[thing.__module__].__doc__ or "").splitlines()
    return ["", ".. code-block:: text", "", *("   " + line for line in text), ""]


def _put_together(lines: list[str]) -> None:
    """Napoleon takes "Shape: so and so" of a property for a type and its description; it is one sentence."""
    for k, line in enumerate(lines):
        if line.startswith(":type: "):
            lines[k] = ""
            lines[0] = f"{line.removeprefix(':type: ')}: {lines[0]}"


def _inline(text: str, here: str) -> str:
    text = text.replace("|", r"\|")
    return re.sub(r"(?<![:`\w])`([^`]+)`(?![`_])", lambda m: _role(m, here).replace(r"\|", "|"), text)


def signature_of_init(_app, what, _name, thing, _options, _signature, _returns):
    """A class that notes what it was made with has a ``__new__`` that takes anything."""
    if what != "class" or issubclass(thing, enum.Enum) or not inspect.isfunction(thing.__init__):
        return None
    if not any("__new__" in vars(base) for base in thing.__mro__[:-1]):
        return None
    _self, *rest = inspect.signature(thing.__init__).parameters.values()
    return stringify_signature(inspect.Signature(rest), show_annotation=False), None


def setup(app):
    """Connect the above."""
    app.connect("autodoc-process-signature", signature_of_init)
    app.connect("autodoc-process-docstring", as_restructured_text)
