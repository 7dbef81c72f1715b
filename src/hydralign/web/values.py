"""Values of a request, checked."""

from typing import Any, TypeGuard

from hydralign.errors import UserError

LARGEST = 2**53
"""Up to which a float counts exactly; NaN and infinity are not below it."""


def text(values: dict[str, Any], key: str, default: str | None = None) -> str:
    """Return a text.

    Raises:
        UserError: if it is none, or cannot be written: JSON may hold half of a pair of surrogates.
    """
    value = values.get(key, default)
    if not isinstance(value, str) or not _is_unicode(value):
        raise UserError(f"{key}: wanted a text.")
    return value


def whole(values: dict[str, Any], key: str, most: int = 2**63 - 1) -> int:
    """Return a whole number from 0 to `most`.

    Raises:
        UserError: if it is none.
    """
    value = values.get(key)
    if type(value) is not int or not 0 <= value <= most:
        raise UserError(f"{key}: wanted a whole number from 0 to {most}.")
    return value


def number(values: dict[str, Any], key: str) -> float:
    """Return a number that a float can hold.

    Raises:
        UserError: if it is none.
    """
    value = values.get(key)
    if not is_number(value):
        raise UserError(f"{key}: wanted a number.")
    return float(value)


def is_number(value: object) -> TypeGuard[float]:
    """Say whether something is a number that a float can hold."""
    return type(value) in (int, float) and -LARGEST < value < LARGEST  # type: ignore[operator]


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
