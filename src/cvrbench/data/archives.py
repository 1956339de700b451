"""Raw files wherever they lie: in a folder, gzipped, or inside a tar or zip archive.

Members are read as streams and never unpacked to disk, so an archive's paths can do no harm, and
links and devices in it are passed over. An archive that unpacks to very much more than it is, or
holds archives in archives without end, was made to exhaust whoever opens it, and is refused.
"""

import gzip
import hashlib
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import IO, Self, cast

from cvrbench.errors import DataError

TAR, ZIP = (".tar.gz", ".tgz", ".tar"), (".zip",)
DAMAGED = (
    OSError,
    EOFError,
    RuntimeError,  # an encrypted member; an unknown compression
    zlib.error,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
)
MOST_RATIO, ALWAYS_FINE = 200, 1 << 28
"""Bytes unpacked per byte on disk at most, where they are more than some: logs have 5 to 50."""
MOST_FILES = 100_000
"""Files in one archive, those of archives within it included."""
DEEPEST = 3
"""Archives within archives."""
MOST_NAME = 1 << 20
"""Bytes of a tar header that holds a long name; tarfile would read it into memory whole."""
PIECE = 1 << 24
Opener = Callable[[ExitStack], IO[bytes]]


@dataclass(frozen=True)
class RawFile:
    """A file that was found."""

    name: str  # base name, without .gz
    where: str  # path, and the member's path where it is in an archive
    size: int  # bytes on disk or, in an archive, unpacked
    is_gzipped: bool  # whether unpacking a .gz will give more bytes than `size`
    changed: int  # when it, or the archive it is in, was last changed, in nanoseconds
    packed: int  # bytes of the file on disk, be it an archive with much else in it
    opener: Opener

    def read(self) -> bytes:
        """Read it whole.

        Raises:
            DataError: It is damaged.
        """
        return b"".join(self.pieces(PIECE))

    def blocks(self, size: int) -> Iterator[bytes]:
        """Read it as blocks of whole lines, of about `size` bytes each.

        A line longer than `size` makes its block longer; the last line may lack its end.

        Raises:
            DataError: It is damaged.
        """
        rest: list[bytes] = []
        for piece in self.pieces(size):
            end = piece.rfind(b"\n") + 1
            if end:
                yield b"".join([*rest, piece[:end]])
                rest = []
            rest.append(piece[end:])
        if last := b"".join(rest):
            yield last

    def sha256(self) -> str:
        """Hash the unpacked content.

        Raises:
            DataError: It is damaged.
        """
        digest = hashlib.sha256()
        for piece in self.pieces(PIECE):
            digest.update(piece)
        return digest.hexdigest()

    def pieces(self, size: int) -> Iterator[bytes]:
        """Read it in pieces of `size` bytes; only reading is guarded, not what others do."""
        with ExitStack() as stack:
            refuse_bomb(self.where, self.size, self.packed)
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
                    refuse_bomb(self.where, total, self.packed)
                    if not piece and not self.is_gzipped and total != self.size:
                        raise EOFError(f"{total:,} of {self.size:,} bytes")
                if not piece:
                    return
                yield piece


def locate(
    raw: Path, wanted: Sequence[str], *, dataset: str, optional: Sequence[str] = ()
) -> dict[str, RawFile]:
    """Find the wanted files of a dataset.

    Args:
        raw: A folder (searched with all below it), an archive, or the file itself.
        wanted: Base names, or patterns such as `log_standard_*.csv`. A file may be gzipped.
        dataset: For messages.
        optional: The same, of files that need not be there.

    Returns:
        Files by base name without `.gz`, in the order of `wanted`; a pattern's files by name. A
        file that is there twice, packed and unpacked, is taken once.

    Raises:
        DataError: Something is missing, damaged, or there twice with different contents.
    """
    if not raw.is_dir() and not raw.is_file():
        what = "is neither a file nor a folder" if raw.exists() else "does not exist"
        raise DataError(f"{raw} {what}; give the folder or archive of {dataset}'s files")
    there = sorted(files_in(raw), key=lambda found: found.name)
    files: dict[str, RawFile] = {}
    missing = []
    for pattern in (*wanted, *optional):
        matches = [found for found in there if fnmatch(found.name, pattern)]
        if not matches and pattern in wanted:
            missing.append(pattern)
        for found in matches:
            other = files.setdefault(found.name, found)
            if other is not found and other.sha256() != found.sha256():
                raise DataError(
                    f"{found.where} and {other.where} are both {found.name}, with different "
                    "contents; keep one"
                )
    if missing:
        names = ", ".join(sorted({found.name for found in there})[:8]) or "nothing"
        raise DataError(
            f"{raw} has no file {' and no file '.join(missing)}, which {dataset} needs; found "
            f"there: {names}. Is it the right folder or archive?"
        )
    return files


@contextmanager
def explain_damage(where: str) -> Iterator[None]:
    """Turn a failed reading into a `DataError` that names the file."""
    try:
        yield
    except DAMAGED as error:
        said = " ".join(str(error).split())
        raise DataError(f"{where} is damaged or truncated ({said}); download it again") from None


def files_in(path: Path) -> Iterator[RawFile]:
    """Yield every file at or below a path, members of archives included."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        with explain_damage(str(file)):
            yield from _OnDisk(file).files()


class _OnDisk:
    """A file on disk, and how much was found in it so far if it is an archive."""

    def __init__(self, file: Path) -> None:
        about = file.stat()
        self.file, self.packed, self.changed = file, about.st_size, about.st_mtime_ns
        self.n_files = self.unpacked = 0

    def files(self) -> Iterator[RawFile]:
        """Return the file itself, or the files in it."""

        def opener(stack: ExitStack) -> IO[bytes]:
            return stack.enter_context(self.file.open("rb"))

        return self._look_inside(self.file.name, str(self.file), self.packed, opener)

    def _look_inside(
        self, name: str, where: str, size: int, opener: Opener, depth: int = 0
    ) -> Iterator[RawFile]:
        if not name.endswith((*TAR, *ZIP)):
            base, is_gzipped = name.removesuffix(".gz"), name.endswith(".gz")
            yield RawFile(base, where, size, is_gzipped, self.changed, self.packed, opener)
            return
        if depth == DEEPEST:
            raise DataError(f"{where}: archives in archives, more than {DEEPEST} deep; unpack it")
        members = _tar_members if name.endswith(TAR) else _zip_members
        with ExitStack() as stack:
            for path, length, inner in members(stack, opener):
                inside = f"{where}: {path}"
                self._count(inside, length)
                yield from self._look_inside(Path(path).name, inside, length, inner, depth + 1)

    def _count(self, where: str, size: int) -> None:
        self.n_files += 1
        self.unpacked += size
        if self.n_files > MOST_FILES:
            raise DataError(f"{where}: more than {MOST_FILES:,} files in one archive; unpack it")
        refuse_bomb(where, self.unpacked, self.packed)


class _Member(tarfile.TarInfo):
    """A header of a tar archive, whose long name is no bomb."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        if not found.isfile() and found.size > MOST_NAME:
            raise tarfile.ReadError(f"a header of {found.size:,} bytes")
        return found


def _tar_members(stack: ExitStack, outer: Opener) -> Iterator[tuple[str, int, Opener]]:
    """Path, size and opener of every regular file."""
    archive = tarfile.open(fileobj=outer(stack), tarinfo=_Member)  # noqa: SIM115 - the stack does
    for member in stack.enter_context(archive):
        if member.isfile():
            yield member.name, member.size, partial(_open_tar_member, outer, member)


def _zip_members(stack: ExitStack, outer: Opener) -> Iterator[tuple[str, int, Opener]]:
    """The same; a link in a zip archive is a file that holds a path, and read as that.

    What is packed by bzip2 or LZMA would be unpacked by zipfile without a bound.
    """
    archive = stack.enter_context(zipfile.ZipFile(outer(stack)))
    for info in archive.infolist():
        if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise RuntimeError(f"{info.filename} is packed in an unusual way: unpack it yourself")
        if not info.is_dir():
            yield info.filename, info.file_size, partial(_open_zip_member, outer, info.filename)


def _open_tar_member(outer: Opener, member: tarfile.TarInfo, stack: ExitStack) -> IO[bytes]:
    archive = stack.enter_context(tarfile.open(fileobj=outer(stack)))  # noqa: SIM115
    stream = archive.extractfile(member)
    assert stream is not None  # only regular files come here
    return stack.enter_context(stream)


def _open_zip_member(outer: Opener, name: str, stack: ExitStack) -> IO[bytes]:
    archive = stack.enter_context(zipfile.ZipFile(outer(stack)))
    return stack.enter_context(archive.open(name))


def refuse_bomb(where: str, unpacked: int, packed: int) -> None:
    """Raise `DataError` where a file would unpack to more than any log does."""
    if unpacked > max(ALWAYS_FINE, MOST_RATIO * packed):
        raise DataError(
            f"{where} unpacks to {unpacked / 1e9:.1f} GB or more from {packed:,} bytes, as no log "
            "does; if you trust it, unpack it yourself"
        )
