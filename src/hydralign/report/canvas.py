"""What all pictures have in common: size, colours, axes, and the way to a PNG."""

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DOTS_PER_INCH = 130
"""More than the page shows, so that a picture stays sharp on a fine screen."""
BEFORE, AFTER, GOOD, BAD, QUIET = "#98a2b0", "#2563a8", "#3a8a4d", "#c2452d", "#6b7280"
SERIES = ("#2563a8", "#c2452d", "#3a8a4d", "#b7791f", "#7a4ea3", "#1f8a8a", "#8a5a44", "#6b7280")
STYLE: Any = {
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": "#374151",
    "axes.edgecolor": "#9ca3af",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "xtick.color": "#374151",
    "ytick.color": "#374151",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "text.parse_math": False,  # a name may hold dollar signs
}


class Picture(NamedTuple):
    """A picture with what it says in words."""

    name: str
    """Of letters and underscores: how TensorBoard lists it."""
    caption: str
    png: bytes


def picture(
    name: str,
    caption: str,
    panels: int,
    draw: Callable[[Sequence["Axes"]], None],
    *,
    columns: int = 3,
    size: tuple[float, float] = (3.5, 2.4),
    long_names: bool = False,
) -> Picture:
    """Lay out axes in rows, let them be drawn on, and take the picture.

    Args:
        name: how TensorBoard lists it.
        caption: what it shows.
        panels: axes.
        draw: draws on them.
        columns: the most beside each other.
        size: width and height of one, in inches.
        long_names: leave as much room as the labels turn out to need, which takes twice the time.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    across = min(columns, panels)
    down = -(-panels // across)
    with rc_context(STYLE):
        layout: Any = "constrained" if long_names else None
        figure = Figure(figsize=(size[0] * across, size[1] * down), layout=layout)
        if not long_names:
            figure.subplots_adjust(**_margins(size, across, down))
        axes = list(figure.subplots(down, across, squeeze=False).flat)
        for empty in axes[panels:]:
            empty.set_axis_off()
        draw(axes[:panels])
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=DOTS_PER_INCH)
    return Picture(name, caption, file.getvalue())


LEFT, RIGHT, TOP, BOTTOM = 0.72, 0.12, 0.32, 0.5
"""Inches around a panel, for its labels."""


def _margins(size: tuple[float, float], across: int, down: int) -> dict[str, float]:
    """Return them as matplotlib wants them: shares of the figure, and of a panel."""
    width, height = size[0] * across, size[1] * down
    return {
        "left": LEFT / width,
        "right": 1 - RIGHT / width,
        "top": 1 - TOP / height,
        "bottom": BOTTOM / height,
        "wspace": (LEFT + RIGHT) / (size[0] - LEFT - RIGHT),
        "hspace": (TOP + BOTTOM) / (size[1] - TOP - BOTTOM),
    }
