"""Lines that are none: stop at the first, or leave out so many and account for them."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from cvrbench.data.raw import Tolerance
from cvrbench.data.sources.aliccp.parse import Fault
from cvrbench.errors import DataError

MAX_EXAMPLES = 100


@dataclass
class FaultLog:
    """Faults of all files so far, by file and reason, some as examples."""

    tolerance: Tolerance
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def take(self, file: str, where: str, faults: Iterable[Fault]) -> None:
        """Note the faults of a file.

        Raises:
            DataError: There is one and none is tolerated, or there are too many by now.
        """
        for fault in sorted(faults):
            text = f"{where}, line {fault.line:,}: {fault.reason.words}"
            if self.tolerance.on_error == "stop":
                raise DataError(
                    f"{text}. Mend the file, or leave such lines out with --on-error skip"
                )
            self.counts[file, fault.reason.name] += 1
            if len(self.examples) < MAX_EXAMPLES:
                self.examples.append(text)
            if self.counts.total() > self.tolerance.most:
                raise DataError(
                    f"{text}. That is fault {self.counts.total():,}, more than the "
                    f"{self.tolerance.most:,} lines that --max-skips allows to leave out; is it "
                    "the right file?"
                )

    def dropped(self, file: str) -> dict[str, int]:
        """Give the lines of a file that were left out, by reason."""
        return {reason: n for (of, reason), n in sorted(self.counts.items()) if of == file}
