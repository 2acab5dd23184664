"""Writes a notebook beside each script of examples/, made by sphinx-gallery, with a last cell that shows the figure.

`make notebooks` runs this. Notebooks hold no results, and nothing that depends on who made them.
"""

import json
from pathlib import Path

from sphinx_gallery.gen_gallery import DEFAULT_GALLERY_CONF
from sphinx_gallery.notebook import jupyter_notebook
from sphinx_gallery.py_source_parser import split_code_and_text_blocks

# What stands around a script: figures are shown without pyplot.
AROUND = {"first_notebook_cell": "%matplotlib inline", "last_notebook_cell": "figure"}
EXAMPLES = Path(__file__).parents[2] / "examples"


def notebook(script: Path) -> str:
    """The notebook of a script, as the text of its file."""
    _, blocks = split_code_and_text_blocks(str(script))
    made = jupyter_notebook(blocks, DEFAULT_GALLERY_CONF | AROUND, str(script.parent))
    del made["metadata"]["language_info"]["version"]  # of the Python that wrote it
    return json.dumps(made, indent=1) + "\n"


if __name__ == "__main__":
    for script in sorted(EXAMPLES.glob("*.py")):
        script.with_suffix(".ipynb").write_text(notebook(script))
