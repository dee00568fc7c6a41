"""Numbers as a reader wants them: enough digits, never more, and a dash for what is not known."""

from __future__ import annotations

import math

DASH = "–"


def number(value: object, digits: int = 3) -> str:
    """``value`` with ``digits`` significant digits; a dash for None, NaN or no number at all."""
    known = as_float(value)
    if known is None:
        return DASH
    if math.isinf(known):
        return "∞" if known > 0 else "−∞"
    if known != 0 and not 1e-4 <= abs(known) < 1e6:
        return _minus(f"{known:.{digits - 1}e}")
    decimals = digits - 1 - (math.floor(math.log10(abs(known))) if known else 0)
    return _minus(f"{known:,.{max(decimals, 0)}f}")


def with_precision(value: object, sd: object) -> str:
    """``value`` down to the second significant digit of ``sd``; both in the same unit."""
    known, width = as_float(value), as_float(sd)
    if known is None:
        return DASH
    if width is None or not math.isfinite(known) or not math.isfinite(width) or width <= 0:
        return number(known, 4)
    decimals = 1 - math.floor(math.log10(width))
    if decimals > 8 or abs(known) >= 1e7:
        return number(known, 6)
    return _minus(f"{known:,.{max(decimals, 0)}f}")


def rhat(value: object) -> str:
    """R-hat with three decimals, because its threshold is 1.01."""
    known = as_float(value)
    if known is None or math.isinf(known):
        return number(value)
    return f"{known:.3f}" if known < 10 else number(known)


def count(value: object) -> str:
    """A whole number with thousands separators; a dash when unknown."""
    known = as_float(value)
    return DASH if known is None else number(known) if math.isinf(known) else _minus(f"{round(known):,}")


def percent(part: float, whole: float) -> str:
    """``part`` of ``whole`` in per cent; never rounds something to 0 % or to 100 %."""
    if whole <= 0:
        return DASH
    share = 100.0 * part / whole
    if 0 < share < 0.1:
        return "< 0.1\u00a0%"
    if 99.9 < share < 100:
        return "> 99.9\u00a0%"
    return f"{share:.0f}\u00a0%" if share in (0, 100) or 10 <= share < 99 else f"{share:.1f}\u00a0%"


def plain(value: float) -> str:
    """``value`` as a tick label: no trailing zeros, 1.0001 in full."""
    if value >= 1e6:
        return f"{value:.0e}".replace("e+0", "e").replace("e+", "e")
    return f"{value:,.0f}" if value >= 1000 else f"{value:.10g}" if value < 2 else f"{value:.3g}"


def short_name(name: str, limit: int = 13) -> str:
    """``name`` in at most ``limit`` characters: the middle gives way, so an index at the end stays."""
    if len(name) <= limit:
        return name
    tail = (limit - 1) // 2
    return f"{name[: limit - 1 - tail]}…{name[-tail:]}"


def as_float(value: object) -> float | None:
    """``value`` as a float, or None when it is missing (None, NaN, pandas' NA, text)."""
    if value is None or isinstance(value, str):
        return None
    try:
        known = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return None if math.isnan(known) else known


def _minus(text: str) -> str:
    return text.replace("-", "−")
