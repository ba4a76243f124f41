"""Texts that came from elsewhere, fit to be shown on a terminal."""

LINE = 1000  # characters of a whole line, with a path and what is the matter


def plain(text: str, most: int = 200) -> str:
    """A text out of a file, or its name, fit to be shown: nothing in it commands a terminal or changes direction."""
    cut = text if len(text) <= most else f"{text[:most]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
