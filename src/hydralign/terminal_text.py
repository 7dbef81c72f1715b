"""Texts of others, on their way to a terminal."""

import unicodedata

_TURNS_AROUND = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
"""Directions that a character sets for those after it."""


def harmless(text: str) -> str:
    """Return a text without what a terminal would take for commands.

    Control characters other than newline and tab, those that turn the direction of writing around
    (the text could pass for another), and halves of surrogate pairs are replaced. Joiners and all
    kinds of space stay.
    """
    return "".join("\N{REPLACEMENT CHARACTER}" if _is_harmful(c) else c for c in text)


def _is_harmful(c: str) -> bool:
    if c in "\n\t":
        return False
    return unicodedata.category(c) in ("Cc", "Cs") or unicodedata.bidirectional(c) in _TURNS_AROUND
