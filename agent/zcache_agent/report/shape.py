# SPDX-License-Identifier: Apache-2.0
"""What documents must look like, so that a report can be made of them: of each field that is used, its type."""

from types import EllipsisType
from typing import Any

from ..frontier import is_number

NUMBER = object()
"""Finite, and of a size that floats have."""
AMOUNT = object()
"""A number that is not negative."""
COUNT = object()
"""A whole number, not negative."""
TIME = object()
"""Seconds since 1970, in four figures' years."""
TEXT = object()
VALUE = object()
"""A number or a text."""
ANY = object()


class Maybe:
    """Null, or of that shape."""

    def __init__(self, shape: object) -> None:
        self.shape = shape


def fits(value: Any, shape: Any) -> bool:  # noqa: ANN401 (whatever JSON has)
    """A dict names fields that must be there, or, by `...`, the shape of all; a list has the shape of its elements."""
    if isinstance(shape, Maybe):
        return value is None or fits(value, shape.shape)
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(_field_fits(value, name, each) for name, each in shape.items())
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(each, shape[0]) for each in value)
    if isinstance(shape, tuple):
        return isinstance(value, list) and len(value) == len(shape) and all(map(fits, value, shape))
    return _is(value, shape)


def _field_fits(value: dict[str, Any], name: str | EllipsisType, shape: Any) -> bool:  # noqa: ANN401
    if isinstance(name, EllipsisType):
        return all(fits(each, shape) for each in value.values())
    return name in value and fits(value[name], shape)


def _is(value: Any, kind: object) -> bool:  # noqa: ANN401
    if kind is NUMBER:
        return is_number(value)
    if kind is AMOUNT:
        return is_number(value) and value >= 0
    if kind is COUNT:
        return is_number(value) and isinstance(value, int) and value >= 0
    if kind is TIME:
        return is_number(value) and 0 <= value < 250e9
    if kind is TEXT:
        return isinstance(value, str)
    return kind is ANY or isinstance(value, str) or is_number(value)


_HISTOGRAM = [(COUNT, COUNT)]
_FACTS = {...: VALUE}
_KERNEL = {
    "memory": _FACTS,
    "pressure": {...: dict.fromkeys(("some_avg10", "some_total", "full_avg10", "full_total"), NUMBER)},
    "zram": {...: _FACTS},
    "zswap": _FACTS,
    "closed": [TEXT],
    "uid": COUNT,
}
_USE = {"name": TEXT, "allowed": ANY, "why": TEXT, "change": TEXT}
_DESCRIPTION = dict.fromkeys(("path", "type", "access", "unit", "range", "default", "meaning"), TEXT)
MOMENT = {
    "agent": TEXT,
    "problem": TEXT,
    "doctor": {"device": {...: ANY}, "uses": [_USE]},
    "descriptions": [_DESCRIPTION],
    "moment": {
        "time": TIME,
        "serial": TEXT,
        "values": _FACTS,
        "histograms": {...: _HISTOGRAM},
        "kernel": Maybe(_KERNEL),
    },
}

_ESTIMATE = {"value": NUMBER, "error": AMOUNT}
_USED = {"used_bytes": AMOUNT, "error": AMOUNT}
_RATIO = {"spec": TEXT, "ratio": Maybe(NUMBER)}
_CODEC = {
    **_RATIO,
    "put_us": Maybe(NUMBER),
    "get_us": Maybe(NUMBER),
    "histogram": _HISTOGRAM,
    "zbud": _USED,
    "zsmalloc": _USED,
    "zram": _USED,
}
_PROCESS = {
    "pid": ANY,
    "name": TEXT,
    "anonymous_bytes": AMOUNT,
    "swapped_bytes": AMOUNT,
    "sampled": COUNT,
    "pages": COUNT,
    "codecs": [_RATIO],
}
ANALYSIS = {
    "page_size": COUNT,
    "kind": TEXT,
    "total": {
        "pages": COUNT,
        "sampled": COUNT,
        "same_filled": Maybe(_ESTIMATE),
        "duplicates": Maybe(_ESTIMATE),
        "codecs": [_CODEC],
    },
    "processes": [_PROCESS],
}
