"""The nearest right word for a wrong one."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Give ` Did you mean 'x'?`, or nothing where no known word is near.

    A key is also compared by its last part, so that `sparsty` finds `model.sparsity`.
    """
    words = list(known)
    near = get_close_matches(word, words, n=2, cutoff=0.6)
    if not near:
        by_tail = {name.rsplit(".", 1)[-1]: name for name in words}
        near = [by_tail[t] for t in get_close_matches(word.rsplit(".", 1)[-1], by_tail, n=2)]
    if not near:
        return ""
    return f" Did you mean {' or '.join(repr(name) for name in near)}?"
