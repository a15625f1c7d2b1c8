"""The house style of the figures. matplotlib is imported when a figure is made, not before: it takes a second."""

from contextlib import contextmanager

from mingpt.support.files import atomic_path

# A palette that colour-blind readers can tell apart (Okabe and Ito 2008).
COLORS = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "red": "#D55E00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "yellow": "#F0E442",
    "grey": "#7F7F7F",
}


@contextmanager
def figure(path, width: float = 6.4, height: float = 4.0, rows: int = 1, columns: int = 1, **options):
    """A figure in the house style, written to `path` as PNG when the body is done.

    Yields the axes, one or an array of them, as `Figure.subplots(rows, columns, **options)` gives them; `width` and
    `height` in inches are of the whole figure.
    """
    import matplotlib
    from matplotlib.figure import Figure  # not pyplot, which would open a window, or change what a notebook shows

    style = {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.3,
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
        "legend.frameon": False,
        "axes.prop_cycle": matplotlib.cycler(color=list(COLORS.values())),
    }
    with matplotlib.rc_context(style):
        drawing = Figure(figsize=(width, height), layout="constrained")
        yield drawing.subplots(rows, columns, **options)
        with atomic_path(path) as temporary:
            drawing.savefig(temporary, dpi=150, format="png")
