"""The nearest right word for a wrong one."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Give ` Did you mean 'x'?`, or nothing where no known word is near.

    A key is also compared by its last part, so that `sparsty` finds `model.sparsity`, and by the
    initials of that part, so that `trainer.lr` finds `trainer.learning_rate`.
    """
    words = list(known)
    group, _, tail = word.rpartition(".")
    near = [name for name in words if _initials(name) == tail and name.startswith(group)]
    near = near or get_close_matches(word, words, n=2, cutoff=0.75)
    if not near:
        by_tail = {_tail(name): name for name in words}
        near = [by_tail[t] for t in get_close_matches(tail, by_tail, n=2)]
    near = near or get_close_matches(word, words, n=2, cutoff=0.6)
    if not near:
        return ""
    return f" Did you mean {' or '.join(repr(name) for name in near)}?"


def _tail(name: str) -> str:
    return name.rpartition(".")[2]


def _initials(name: str) -> str:
    parts = _tail(name).split("_")
    return "".join(part[:1] for part in parts) if len(parts) > 1 else ""
