"""Markdown tables."""

from collections.abc import Sequence

Cell = str | float | int | None


def markdown(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A Markdown table; only the first column is left-aligned, and None is an empty cell."""
    lines = [
        "| " + " | ".join(title.replace("_", " ") for title in header) + " |",
        "|---|" + "--:|" * (len(header) - 1),
    ]
    lines += ["| " + " | ".join(_text(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _text(cell: Cell) -> str:
    """A whole number unchanged, any other with about three digits."""
    if cell is None or cell != cell:  # not a number
        return ""
    if isinstance(cell, str | int) or cell.is_integer():
        return str(cell if isinstance(cell, str) else int(cell))
    digits = 0 if abs(cell) >= 100 else 1 if abs(cell) >= 10 else 2
    return f"{cell:.{digits}f}"
