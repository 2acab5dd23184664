"""Shows in the gallery what examples draw: every figure that is one of their names when they end."""

from pathlib import Path

from matplotlib.figure import Figure


def _get_sg_image_scraper():
    """Give what sphinx-gallery asks a module of its `image_scrapers` for."""
    return scraper


def scraper(_block, variables, _configuration):
    """Save figures that were not shown before; returns the text that shows them.

    Args:
        _block: The block of code that has run.
        variables: What it left behind.
        _configuration: The gallery's.
    """
    shown, lines = variables.setdefault("shown_figures", []), []
    for figure in [v for v in variables["example_globals"].values() if isinstance(v, Figure)]:
        if not any(figure is one for one in shown):
            shown.append(figure)
            path = Path(next(iter(variables["image_path_iterator"])))
            figure.savefig(path, dpi=110)
            pages = next(parent for parent in path.parents if (parent / "conf.py").exists())
            lines += [f".. image:: /{path.relative_to(pages)}", "   :alt: what the example draws", ""]
    return "\n".join(lines)
