"""Files: bounded reads, atomic writes that follow no link, explained failures, locks.

What lies in a folder may be somebody else's, or damaged. So a stored file is opened here, or
passes `check_regular` before a library opens it: a FIFO would wait for ever and a device never end.
And what is written or deleted inside a folder that the user named stays inside: `make_folder` and
`remove` follow no link below it.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from glob import escape
from pathlib import Path
from typing import Any, BinaryIO

import psutil
from filelock import FileLock, Timeout

from cvrbench.errors import CvrbenchError, StoreError

LOOK_SECONDS = 0.2
"""Shortest wait for a lock: `is_locked` of another process holds it for an instant."""
FORGOTTEN_SECONDS = 86_400.0
"""Age of a temporary file at which its process, on another machine, counts as dead."""
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
TEXT_BYTES = 64 * 2**20
"""Largest text or JSON file that is read: far above any of ours, far below a machine's memory."""


def open_regular(path: Path, *, most: int | None = None) -> BinaryIO:
    """Open a stored file for reading.

    Args:
        path: A regular file, or a link to one.
        most: Largest size in bytes.

    Raises:
        OSError: It is absent, a folder, a FIFO, a socket or a device, or larger.
    """
    check_regular(path, most=most)
    # Not to wait for a FIFO that has taken the file's place meanwhile.
    file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _check_status(os.fstat(file), most)
    except OSError:
        os.close(file)
        raise
    return os.fdopen(file, "rb")


def check_regular(path: Path, *, most: int | None = None) -> Path:
    """Return the path of a stored file that a library may open; arguments as `open_regular`."""
    _check_status(path.stat(), most)
    return path


def _check_status(found: os.stat_result, most: int | None) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is no regular file")
    if most is not None and found.st_size > most:
        raise OSError(f"it has {found.st_size:,} bytes, and {most:,} is the most that is read")


def read_bytes(path: Path, *, most: int = TEXT_BYTES) -> bytes:
    """Read a stored file; arguments and errors as `open_regular`."""
    with open_regular(path, most=most) as file:
        # Not `read(most)`, which would take that much memory first.
        return file.read(min(most, os.fstat(file.fileno()).st_size))


def read_json(path: Path, *, most: int = TEXT_BYTES) -> Any:
    """Read a stored JSON file, in which a number is finite.

    Raises:
        OSError: As `open_regular`.
        ValueError: It is no JSON, or nested too deep.
    """
    try:
        return json.loads(read_bytes(path, most=most).decode(), parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError(str(error)) from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no value in JSON")


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Add a checksum of plain values to them, by which a change of the file shows."""
    return {**values, "checksum": _checksum(values)}


def is_intact(values: object) -> bool:
    """Whether plain values have the checksum that they say, or say none, as older files do."""
    if not isinstance(values, Mapping) or "checksum" not in values:
        return True
    rest = {key: value for key, value in values.items() if key != "checksum"}
    return bool(_checksum(rest) == values["checksum"])


def _checksum(values: Mapping[str, Any]) -> str:
    # JSON's own view of them: a file has no tuples and no keys but words.
    plain = json.loads(json.dumps(values))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def make_folder(path: Path, *, within: Path, key: str = "results_dir") -> Path:
    """Create a folder, and those around it, inside a folder that the user named.

    Raises:
        StoreError: `path`, or a folder between it and `within`, is a link or cannot be made.
    """
    check_no_links(path, within=within)
    with explain_write(path, key):
        path.mkdir(parents=True, exist_ok=True)
    return path


def check_no_links(path: Path, *, within: Path) -> None:
    """Refuse a path that leads out of the folder that the user named.

    Raises:
        StoreError: A part of the path below `within` is a link.
    """
    for part in (path, *path.parents):
        if part == within:
            return
        if part.is_symlink():
            raise StoreError(
                f"{part} is a link, which may lead anywhere; nothing is written or deleted behind "
                "it: put what it leads to in its place, or name another folder"
            )


def remove(path: Path, *, within: Path) -> None:
    """Remove a file, a link or a whole folder inside a folder that the user named; or nothing.

    Raises:
        StoreError: A folder between `path` and `within` is a link.
        OSError: The system refuses.
    """
    check_no_links(path.parent, within=within)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def size_of(folder: Path) -> int:
    """Return the bytes of the files in a folder; behind links there are none of its own."""
    files = (file for file in folder.rglob("*") if not file.is_symlink() and file.is_file())
    return sum(file.lstat().st_size for file in files)


def check_writable(results_dir: Path) -> None:
    """Create the results folder, and try to write into it before hours of training.

    Raises:
        StoreError: The folder is not writable.
    """
    with explain_write(results_dir):
        results_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=results_dir):
            pass


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        StoreError: The disk is full or the folder not writable.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(text)


@contextmanager
def atomic_write(path: Path, key: str = "results_dir") -> Iterator[Path]:
    """Write a file whole or not at all; `key` names another place for it (`explain_write`).

    Yields:
        A temporary path to write to. After the block that file is synced and renamed to `path`;
        after an exception it is removed. The temporary file of a killed process is removed by the
        next process that writes `path`.

    Raises:
        StoreError: The disk is full or the folder not writable.
    """
    temporary = temporary_of(path)
    forget_dead(path)
    with explain_write(path, key):
        try:
            temporary.unlink(missing_ok=True)
            temporary.touch(exist_ok=False)
            mode = temporary.stat().st_mode  # by the umask; safetensors would make it 0600
            yield temporary
            temporary.chmod(stat.S_IMODE(mode))
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def temporary_of(path: Path) -> Path:
    """Return where this thread makes a file or folder; others may be making the same one."""
    mine = f"{process_scope()}-{os.getpid()}-{threading.get_ident()}"
    return path.with_name(f".{path.name}.{mine}.tmp")


def forget_temporaries(folder: Path) -> None:
    """Remove temporary files of killed processes from a folder that only this process writes."""
    # safetensors names its own `.tmp` and six letters.
    for left in (*folder.glob("*.tmp"), *folder.glob(".tmp??????")):
        with suppress(OSError):
            remove(left, within=folder)


@cache
def process_scope() -> str:
    """Return a name of the scope in which process numbers are unique: machine, boot, container."""
    name = socket.gethostname()
    try:
        name += Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        name += str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # no Linux
        pass
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def forget_dead(path: Path) -> None:
    """Remove temporary files and folders of `path` whose process is gone."""
    for left in path.parent.glob(f".{escape(path.name)}.*.tmp"):
        scope, _, rest = left.name.removeprefix(f".{path.name}.").partition("-")
        pid = rest.partition("-")[0]
        with suppress(OSError):
            if scope == process_scope() and pid.isdecimal():
                dead = not psutil.pid_exists(int(pid))
            else:
                dead = time.time() - left.stat().st_mtime > FORGOTTEN_SECONDS
            if dead:
                remove(left, within=path.parent)


@contextmanager
def explain_write(path: Path, key: str = "results_dir") -> Iterator[None]:
    """Turn a failed write into a `StoreError` that says where, why, and which key names another."""
    try:
        yield
    except Exception as error:
        number = system_number(error)
        if not isinstance(error, OSError) and number is None:
            raise
        if number in NO_SPACE:
            raise StoreError(
                f"no space left to write {path}; free some, and the same command goes on"
            ) from None
        why = str(error) if number is None else os.strerror(number)
        raise StoreError(
            f"cannot write {path}: {why}; set {key}=... to a folder that is writable"
        ) from None


def system_number(error: BaseException) -> int | None:
    """Return the system's number of an error, whichever library raised it; None without one."""
    if isinstance(error, CvrbenchError):
        return None  # it is explained already
    # Libraries in Rust tell it in words alone; torch raises its own while it handles the system's.
    if told := re.search(r"\(os error (\d+)\)", str(error)):
        return int(told[1])
    cause = error if isinstance(error, OSError) else error.__context__
    return cause.errno if isinstance(cause, OSError) else None


@contextmanager
def lock(file: Path, *, seconds: float = LOOK_SECONDS) -> Iterator[bool]:
    """Hold a lock while the block runs, against all processes that see the file.

    The system releases it when its process dies. The file stays: a process that waits for a lock
    whose file is removed would hold it beside the next one, which creates a new file.

    Args:
        file: Created if it is missing.
        seconds: Longest wait.

    Yields:
        Whether the lock is held.

    Raises:
        StoreError: The file cannot be written.
    """
    lock = FileLock(file, timeout=seconds)
    held = True
    check_no_links(file, within=file.parent)  # the lock would empty what the link leads to
    with explain_write(file):
        try:
            lock.acquire()
        except Timeout:  # an OSError, too
            held = False
    try:
        yield held
    finally:
        lock.release()


def is_locked(file: Path) -> bool:
    """Whether some process holds a lock."""
    if not file.is_file() or file.is_symlink():
        return False
    try:
        with FileLock(file, timeout=0):
            return False
    except Timeout:
        return True
