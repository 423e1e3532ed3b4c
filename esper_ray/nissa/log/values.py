"""Values of query results as values of JSON and of CSV."""

import json
import math
from decimal import Decimal
from typing import Any


def csv_cell(value: Any) -> Any:
    """A value of a table of comma-separated values: empty for null, all digits, JSON for lists and mappings."""
    if isinstance(value, bytes):
        return value.hex()
    return json.dumps(json_value(value)) if isinstance(value, (list, tuple, dict)) else value


def json_value(value: Any) -> Any:
    """A value with types of JSON: null for numbers that are not finite, text for times and bytes."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, dict):
        return {str(key): json_value(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(inner) for inner in value]
    return value.hex() if isinstance(value, bytes) else str(value)
