"""Names that users, files or attackers made, fit to be shown."""


def harmless(text: str) -> str:
    r"""Spell out characters that would command a terminal: colours, the cursor, its title.

    >>> harmless("red: \x1b[31m")
    'red: \\x1b[31m'
    """
    return "".join(c if c.isprintable() or c == "\n" else _spelt(c) for c in text)


def _spelt(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()
