"""Marks and words of drawings: marker shapes, text that cannot be seen, numbers."""

import math

from markupsafe import Markup

STYLES = 8
"""Colours, dash patterns and marker shapes; more series take other combinations of these."""

_SHAPES = (
    '<circle r="2.3"/>',
    '<path d="M-2.4-2.4H2.4V2.4H-2.4Z"/>',
    '<path d="M0-3.2L3 2.3H-3Z"/>',
    '<path d="M0-3.4L3.2 0 0 3.4-3.2 0Z"/>',
    '<path class="hollow" d="M2.5 0A2.5 2.5 0 1 1-2.5 0 2.5 2.5 0 1 1 2.5 0Z"/>',
    '<path class="hollow" d="M-2.2-2.2H2.2V2.2H-2.2Z"/>',
    '<path d="M0 3.2L3-2.3H-3Z"/>',
    '<path class="cross" d="M-2.6-2.6L2.6 2.6M-2.6 2.6L2.6-2.6"/>',
)

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127)} | {9: "⇥", 10: "⏎", 0x2028: "⏎", 0x2029: "⏎"}


def visible(value: object) -> object:
    """Return text with its control characters made visible and undecodable bytes marked; other things as they are."""
    if isinstance(value, str) and not isinstance(value, Markup):
        text = value.replace("\r\n", "\n").translate(_CONTROLS)
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return value


def markers() -> Markup:
    """Return the marker shapes, for once on a page."""
    shapes = "".join(f'<g id="_m{index}">{shape}</g>' for index, shape in enumerate(_SHAPES))
    return Markup(f'<svg class="defs" width="0" height="0" aria-hidden="true"><defs>{shapes}</defs></svg>')


def figure_text(value: float | None, percent: bool) -> str:
    """Return a value as text: in percent to one decimal, others to four decimal; a dash for none."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{100 * value:.1f} %" if percent else f"{value:.4g}"


def classes(style: int) -> str:
    """Return the classes of a style's colour and dashes."""
    return f"s{style % STYLES} d{shape(style)}"


def shape(style: int) -> int:
    """Return the number of a style's marker shape."""
    return (style + style // STYLES) % STYLES


def marker(style: int, x: float, y: float) -> str:
    """Return a style's marker at a place."""
    return f'<use href="#_m{shape(style)}" x="{decimal(x)}" y="{decimal(y)}"/>'


def decimal(value: float) -> str:
    """Return a decimal to one decimal."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text
