"""Raw files wherever they lie: in a folder, gzipped, or inside a tar or zip archive.

Members are read as streams and never unpacked to disk, so an archive's paths can do no harm.
"""

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, cast

from cvrbench.errors import DataError

TAR, ZIP = (".tar.gz", ".tgz", ".tar"), (".zip",)
DAMAGED = (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile, NotImplementedError)
Opener = Callable[[ExitStack], IO[bytes]]


@dataclass(frozen=True)
class RawFile:
    """A file that was found.

    Attributes:
        name: Base name, without .gz.
        where: Path, and the member's path where it is in an archive.
        size: Bytes it has on disk or, in an archive, unpacked.
        is_gzipped: Whether unpacking a .gz will give more bytes than `size`.
        changed: When the file, or the archive it is in, was last changed, in nanoseconds.
    """

    name: str
    where: str
    size: int
    is_gzipped: bool
    changed: int
    opener: Opener

    def read(self) -> bytes:
        """Read it whole.

        Raises:
            DataError: It is damaged.
        """
        return b"".join(self._pieces(-1))

    def blocks(self, size: int) -> Iterator[bytes]:
        """Read it as blocks of whole lines, of about `size` bytes each.

        A line longer than `size` makes its block longer; the last line may lack its end.

        Raises:
            DataError: It is damaged.
        """
        rest: list[bytes] = []
        for piece in self._pieces(size):
            end = piece.rfind(b"\n") + 1
            if end:
                yield b"".join([*rest, piece[:end]])
                rest = []
            rest.append(piece[end:])
        if last := b"".join(rest):
            yield last

    def _pieces(self, size: int) -> Iterator[bytes]:
        """The stream in pieces of `size` bytes; only reading is guarded, not what others do."""
        with ExitStack() as stack:
            with explain_damage(self.where):
                stream = self.opener(stack)
                if self.is_gzipped:
                    unzipped = stack.enter_context(gzip.GzipFile(fileobj=stream))
                    stream = cast("IO[bytes]", unzipped)
            total = 0
            while True:
                with explain_damage(self.where):
                    piece = stream.read(size)
                    total += len(piece)
                    if not piece and not self.is_gzipped and total != self.size:
                        raise EOFError(f"{total:,} of {self.size:,} bytes")
                if not piece:
                    return
                yield piece


def find_files(raw: Path, wanted: Sequence[str], *, dataset: str) -> dict[str, bytes]:
    """Read the wanted files of a dataset; see `locate`, which finds them.

    Returns:
        Content by base name without `.gz`.
    """
    files: dict[str, bytes] = {}
    for found in _matching(raw, wanted, dataset):
        content = found.read()
        if files.setdefault(found.name, content) != content:
            raise DataError(
                f"{found.where}: there is another {found.name} with other content; keep one"
            )
    return files


def locate(
    raw: Path, wanted: Sequence[str], *, dataset: str, optional: Sequence[str] = ()
) -> dict[str, RawFile]:
    """Find the wanted files of a dataset, to be read as streams.

    Args:
        raw: A folder (searched with all below it), an archive, or the file itself.
        wanted: Base names, or patterns such as `log_standard_*.csv`. A file may be gzipped.
        dataset: For messages.
        optional: The same, of files that need not be there.

    Returns:
        Files by base name without `.gz`, in the order of `wanted`; a pattern's files by name.

    Raises:
        DataError: Something is missing, damaged, or there twice.
    """
    files: dict[str, RawFile] = {}
    for found in _matching(raw, wanted, dataset, optional):
        if (other := files.setdefault(found.name, found)) is not found:
            raise DataError(f"{found.where} and {other.where} are both {found.name}; keep one")
    return files


def _matching(
    raw: Path, wanted: Sequence[str], dataset: str, optional: Sequence[str] = ()
) -> list[RawFile]:
    if not raw.exists():
        raise DataError(f"{raw} does not exist; give the folder or archive of {dataset}'s files")
    there = list(_walk(raw))
    patterns = (*wanted, *optional)
    matches = {p: [found for found in there if fnmatch(found.name, p)] for p in patterns}
    if missing := [pattern for pattern in wanted if not matches[pattern]]:
        names = ", ".join(sorted({found.name for found in there})[:8]) or "nothing"
        raise DataError(
            f"{raw} has no file {' and no file '.join(missing)}, which {dataset} needs; found "
            f"there: {names}. Is it the right folder or archive?"
        )
    return [f for files in matches.values() for f in sorted(files, key=lambda found: found.name)]


@contextmanager
def explain_damage(where: str) -> Iterator[None]:
    """Turn a failed reading into a `DataError` that names the file."""
    try:
        yield
    except DAMAGED as error:
        raise DataError(f"{where} is damaged or truncated ({error}); download it again") from None


def _walk(path: Path) -> Iterator[RawFile]:
    """Every file at or below a path, members of archives included."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        with explain_damage(str(file)):
            about = file.stat()
            for found in _look_inside(file.name, str(file), about.st_size, _on_disk(file)):
                yield replace(found, changed=about.st_mtime_ns)


def _on_disk(file: Path) -> Opener:
    return lambda stack: stack.enter_context(file.open("rb"))


def _look_inside(name: str, where: str, size: int, opener: Opener) -> Iterator[RawFile]:
    """The file itself, or what is in it if it is an archive; archives may lie in archives."""
    if name.endswith(TAR):
        with ExitStack() as stack, tarfile.open(fileobj=opener(stack)) as tar:
            for member in tar:
                if member.isfile():
                    inner = _in_tar(opener, member)
                    base = Path(member.name).name
                    yield from _look_inside(base, f"{where}: {member.name}", member.size, inner)
    elif name.endswith(ZIP):
        with ExitStack() as stack, zipfile.ZipFile(opener(stack)) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    unzip = _in_zip(opener, info.filename)
                    base = Path(info.filename).name
                    yield from _look_inside(
                        base, f"{where}: {info.filename}", info.file_size, unzip
                    )
    else:
        yield RawFile(name.removesuffix(".gz"), where, size, name.endswith(".gz"), 0, opener)


def _in_tar(outer: Opener, member: tarfile.TarInfo) -> Opener:
    def opener(stack: ExitStack) -> IO[bytes]:
        source = outer(stack)
        archive = stack.enter_context(tarfile.open(fileobj=source))  # noqa: SIM115 - the stack does
        stream = archive.extractfile(member)
        assert stream is not None  # only regular files come here
        return stack.enter_context(stream)

    return opener


def _in_zip(outer: Opener, name: str) -> Opener:
    def opener(stack: ExitStack) -> IO[bytes]:
        archive = stack.enter_context(zipfile.ZipFile(outer(stack)))
        return stack.enter_context(archive.open(name))

    return opener
