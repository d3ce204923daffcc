"""Figures for people and for programs."""

from __future__ import annotations

import math
from typing import Any


def rounded(value: Any) -> Any:
    """JSON knows no nan; four digits are enough."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 4)
    return value


def as_text(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"
