"""The house style of the figures. matplotlib is imported when a figure is made, not before: it takes a second."""

from contextlib import contextmanager
from pathlib import Path

# A palette that colour-blind readers can tell apart (Okabe and Ito 2008).
COLORS = {"blue": "#0072B2", "orange": "#E69F00", "green": "#009E73", "red": "#D55E00", "purple": "#CC79A7",
          "sky": "#56B4E9", "yellow": "#F0E442", "grey": "#7F7F7F"}


@contextmanager
def figure(path, width: float = 6.4, height: float = 4.0, rows: int = 1, columns: int = 1, **options):
    """A figure in the house style, written to `path` as PNG when the body is done.

    Yields the axes as `matplotlib.pyplot.subplots(rows, columns)` gives them; `width` and `height` in inches are of the
    whole figure.
    """
    import matplotlib

    matplotlib.use("Agg")  # files only, so it works without a screen
    import matplotlib.pyplot as plt

    style = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
             "grid.alpha": 0.3, "grid.linewidth": 0.6, "axes.axisbelow": True, "legend.frameon": False,
             "axes.prop_cycle": plt.cycler(color=list(COLORS.values()))}
    with plt.rc_context(style):
        drawing, axes = plt.subplots(rows, columns, figsize=(width, height), layout="constrained", **options)
        try:
            yield axes
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            drawing.savefig(path, dpi=150)
        finally:
            plt.close(drawing)
