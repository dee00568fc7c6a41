"""Numbers as text: enough digits and no more, and a dash for an unknown value."""

from __future__ import annotations

import math

DASH = "–"


def number(value: object, digits: int = 3) -> str:
    """Return ``value`` with ``digits`` significant digits; a dash for None, NaN or a value that is not a number."""
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
    """Return ``value`` rounded to the second significant digit of ``sd``; both have the same unit."""
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
    """Return R-hat with three decimals, because its threshold is 1.01."""
    known = as_float(value)
    if known is None or math.isinf(known):
        return number(value)
    return f"{known:.3f}" if known < 10 else number(known)


def count(value: object) -> str:
    """Return a whole number with thousands separators; a dash if unknown."""
    known = as_float(value)
    return DASH if known is None else number(known) if math.isinf(known) else _minus(f"{round(known):,}")


def percent(part: float, whole: float) -> str:
    """Return ``part`` of ``whole`` in per cent; a share above 0 is never shown as 0 %, one below 1 never as 100 %."""
    if whole <= 0:
        return DASH
    share = 100.0 * part / whole
    if 0 < share < 0.1:
        return "< 0.1\u00a0%"
    if 99.9 < share < 100:
        return "> 99.9\u00a0%"
    return f"{share:.0f}\u00a0%" if share in (0, 100) or 10 <= share < 99 else f"{share:.1f}\u00a0%"


def plain(value: float) -> str:
    """Return ``value`` as a tick label, without trailing zeros, and 1.0001 in full."""
    if value >= 1e6:
        return f"{value:.0e}".replace("e+0", "e").replace("e+", "e")
    return f"{value:,.0f}" if value >= 1000 else f"{value:.10g}" if value < 2 else f"{value:.3g}"


def short_name(name: str, limit: int = 13) -> str:
    """Return ``name`` in at most ``limit`` characters; the middle is cut, so that an index at the end stays."""
    if len(name) <= limit:
        return name
    tail = (limit - 1) // 2
    return f"{name[: limit - 1 - tail]}…{name[-tail:]}"


def as_float(value: object) -> float | None:
    """Return ``value`` as a float, or None if it is missing (None, NaN, pandas' NA, text)."""
    if value is None or isinstance(value, str):
        return None
    try:
        known = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return None if math.isnan(known) else known


def _minus(text: str) -> str:
    return text.replace("-", "−")
