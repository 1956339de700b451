"""Raw files wherever they lie: in a folder, gzipped, or inside a tar or zip archive.

Members are read into memory and never unpacked to disk, so an archive's paths can do no harm.
"""

import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from cvrbench.errors import DataError

TAR, ZIP = (".tar.gz", ".tgz", ".tar"), (".zip",)
DAMAGED = (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile, NotImplementedError)


class _Found(NamedTuple):
    """A file that was found, and how to read it."""

    name: str
    """Base name, without .gz."""
    where: str
    read: Callable[[], bytes]


def find_files(raw: Path, wanted: Sequence[str], *, dataset: str) -> dict[str, bytes]:
    """Read the wanted files of a dataset.

    Args:
        raw: A folder (searched with all below it), an archive, or the file itself.
        wanted: Base names, or patterns such as `log_standard_*.csv`. A file may be gzipped.
        dataset: For messages.

    Returns:
        Content by base name without `.gz`, in the order of `wanted`; a pattern's files by name.

    Raises:
        DataError: Something is missing, damaged, or there twice with different content.
    """
    if not raw.exists():
        raise DataError(f"{raw} does not exist; give the folder or archive of {dataset}'s files")
    seen: list[str] = []
    matches: dict[str, dict[str, bytes]] = {pattern: {} for pattern in wanted}
    for found in _walk(raw):
        seen.append(found.name)
        for pattern in wanted:
            if fnmatch(found.name, pattern):
                _add(matches[pattern], found)
    if missing := [pattern for pattern in wanted if not matches[pattern]]:
        there = ", ".join(sorted(set(seen))[:8]) or "nothing"
        raise DataError(
            f"{raw} has no file {' and no file '.join(missing)}, which {dataset} needs; found "
            f"there: {there}. Is it the right folder or archive?"
        )
    return {name: files[name] for files in matches.values() for name in sorted(files)}


def _add(files: dict[str, bytes], found: _Found) -> None:
    try:
        content = found.read()
    except DAMAGED as error:
        raise DataError(
            f"{found.where} is damaged or truncated ({error}); download it again"
        ) from None
    if files.setdefault(found.name, content) != content:
        raise DataError(
            f"{found.where}: there is another {found.name} with other content; keep one"
        )


def _walk(path: Path) -> Iterator[_Found]:
    """Every file at or below a path, members of archives included."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        try:
            if file.name.endswith(TAR):
                with file.open("rb") as stream:
                    yield from _tar(stream, str(file))
            elif file.name.endswith(ZIP):
                yield from _zip(file)
            else:
                yield _Found(_base(file.name), str(file), partial(_read, file))
        except DAMAGED as error:
            raise DataError(
                f"{file} is damaged or truncated ({error}); download it again"
            ) from None


def _read(file: Path) -> bytes:
    return _plain(file.read_bytes(), file.name)


def _tar(stream: IO[bytes], where: str) -> Iterator[_Found]:
    with tarfile.open(fileobj=stream) as archive:
        for member in archive:
            if member.isfile():
                name = _base(Path(member.name).name)
                yield _Found(name, f"{where}: {member.name}", partial(_extract, archive, member))


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    assert stream is not None  # only regular files come here
    content = stream.read()
    if len(content) != member.size:
        raise EOFError(f"{len(content):,} of {member.size:,} bytes")
    return _plain(content, member.name)


def _zip(file: Path) -> Iterator[_Found]:
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if member.is_dir():
                continue
            where = f"{file}: {member.filename}"
            if member.filename.endswith(TAR):  # some providers wrap their tar file once more
                yield from _tar(io.BytesIO(archive.read(member)), where)
                continue
            name = _base(Path(member.filename).name)
            yield _Found(name, where, partial(_member, archive, member))


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    return _plain(archive.read(member), member.filename)


def _plain(content: bytes, name: str) -> bytes:
    return gzip.decompress(content) if name.endswith(".gz") else content


def _base(name: str) -> str:
    return name.removesuffix(".gz")
