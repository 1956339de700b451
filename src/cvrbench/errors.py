"""Every error a user can cause or mend; the command line prints the sentence, not a traceback."""

from collections.abc import Iterable
from difflib import get_close_matches


class CvrbenchError(Exception):
    """A sentence for the user: what is wrong, where, what was expected, how to mend it."""


class ConfigError(CvrbenchError):
    """A key, group or value of the configuration is wrong; the command exits with 2."""


class DataError(CvrbenchError):
    """Raw or prepared data are missing, damaged, or contradict what their split promises."""


class RunError(CvrbenchError):
    """A run cannot start or go on: the device is absent, the loss is not finite, and the like."""


class StoreError(CvrbenchError):
    """A results folder cannot be read or written."""


class CellBusy(StoreError):
    """Another process, here or on a machine that shares the folder, is running this cell."""


class RunInterrupted(CvrbenchError):
    """The user stopped a run; its folder holds what is needed to go on."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the known words nearest to a wrong one, or an empty text.

    A key is also compared by its last part, so that `sparsty` finds `model.sparsity`, and by the
    initials of that part, so that `trainer.lr` finds `trainer.learning_rate`.
    """
    words = list(known)
    group, _, tail = word.rpartition(".")
    near = [name for name in words if _initials(name) == tail and name.startswith(group)]
    near = near or get_close_matches(word, words, n=2, cutoff=0.75)
    if not near:
        by_tail = {name.rpartition(".")[2]: name for name in words}
        near = [by_tail[t] for t in get_close_matches(tail, by_tail, n=2)]
    near = near or get_close_matches(word, words, n=2, cutoff=0.6)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def _initials(key: str) -> str:
    """Return the initials of a key's last part, `lr` of `learning_rate`; none of a single word."""
    parts = key.rpartition(".")[2].split("_")
    return "".join(part[:1] for part in parts) if len(parts) > 1 else ""
