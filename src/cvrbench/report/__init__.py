"""From run records to tables and figures; reads, never trains, never imports torch."""

MARGIN = 0.001
"""Difference of AUC that matters where the user says nothing; the field publishes such gains."""
MOST_SEEDS = 20
"""Seeds at which `seeds=auto` ends where the user says nothing."""
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a cell begins with that spreadsheets compute; the last four are the wide forms."""


def escape_control(text: str) -> str:
    r"""Spell out characters that would command a terminal: colours, the cursor, its title.

    >>> escape_control("red: \x1b[31m")
    'red: \\x1b[31m'
    """
    return "".join(c if c.isprintable() or c == "\n" else _spelt(c) for c in text)


def escape_formula(text: str) -> str:
    """Put an apostrophe before what a spreadsheet would take for a formula.

    For names in CSV files; a number is written as one, whatever its sign. (OWASP, "CSV injection".)

    >>> escape_formula("=HYPERLINK(1)"), escape_formula("mmoe")
    ("'=HYPERLINK(1)", 'mmoe')
    """
    return f"'{text}" if text.startswith(FORMULA) else text


def _spelt(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()
