"""Public raw data: where they are, and their download over HTTP: resumed, checked, whole or absent.

A download is guarded against servers that lie, lead elsewhere, stall, drip or never end, which
`tests/hostile/test_fetch.py` plays. Libraries for downloads check a file's hash when it has come,
and leave to their caller what happens before.
"""

import errno
import hashlib
import http.client
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cvrbench import __version__
from cvrbench.errors import DataError, did_you_mean
from cvrbench.system.files import check_no_links, check_regular, make_folder

CHUNK = 1 << 18
ATTEMPTS = 5
SLOWEST = 1024
"""Bytes per second below which a connection counts as broken, over `timeout` seconds: a server that
drips a byte now and then never times out."""
MOST_UNTOLD = 1 << 36
"""Most bytes taken from a server that does not announce how many there are."""


@dataclass(frozen=True, kw_only=True)
class Download:
    """One file: where it is and, where known, what it must hash to."""

    url: str
    file_name: str
    checksum: str | None
    """`md5:...` or `sha256:...` of the file as downloaded."""


@dataclass(frozen=True, kw_only=True)
class Public:
    """Raw data that anyone may download."""

    licence: str
    page: str
    downloads: tuple[Download, ...]


@dataclass(frozen=True, kw_only=True)
class BehindLogin:
    """Raw data that a person must download: what, and from where."""

    licence: str
    page: str
    files: tuple[str, ...]


def _public(licence: str, page: str, folder: str, checksums: Mapping[str, str | None]) -> Public:
    """Return a source whose files lie in one folder of a server: name -> checksum."""
    downloads = (
        Download(url=f"{folder}/{name}", file_name=name, checksum=checksum)
        for name, checksum in checksums.items()
    )
    return Public(licence=licence, page=page, downloads=tuple(downloads))


def _kuaishou(page: str, record: int, name: str, checksum: str | None) -> Public:
    folder = f"https://zenodo.org/records/{record}/files"
    return _public("CC BY-SA 4.0", page, folder, {name: checksum})


_KUAIRAND = ("https://kuairand.com", 10439422)
_UCI = "https://archive.ics.uci.edu"
SOURCES: Mapping[str, Public | BehindLogin] = {
    "kuairand": _kuaishou(
        *_KUAIRAND, "KuaiRand-Pure.tar.gz", "md5:0820331067a3784d9691136f772b35a7"
    ),
    "kuairand_1k": _kuaishou(
        *_KUAIRAND, "KuaiRand-1K.tar.gz", "md5:6b0b9c8222d67fcd4c676218edca3f1f"
    ),
    "kuairand_27k": _kuaishou(
        *_KUAIRAND, "KuaiRand-27K.tar.gz", "md5:3e3c799a24e2d23a4d2c757fbf9adf59"
    ),
    "kuairec": _kuaishou("https://kuairec.com", 18164998, "KuaiRec.zip", None),
    "census_income": _public(
        "CC BY 4.0",
        f"{_UCI}/dataset/117/census+income+kdd",
        f"{_UCI}/ml/machine-learning-databases/census-income-mld",
        {"census-income.data.gz": None, "census-income.test.gz": None},
    ),
    "adult": _public(
        "CC BY 4.0",
        f"{_UCI}/dataset/2/adult",
        f"{_UCI}/ml/machine-learning-databases/adult",
        {
            "adult.data": (
                "sha256:5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d"
            ),
            "adult.test": (
                "sha256:a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05"
            ),
        },
    ),
    "hillstrom": _public(
        "public challenge data, no formal licence",
        "https://blog.minethatdata.com/2008/03/minethatdata-e-mail-analytics-and-data.html",
        "http://www.minethatdata.com",
        {
            "Kevin_Hillstrom_MineThatData_E-MailAnalytics_DataMiningChallenge_2008.03.20.csv": (
                "sha256:0e5893329d8b93cefecc571777672028290ab69865718020c78c7284f291aece"
            )
        },
    ),
    "lt4rec": _public(
        "none stated: not to be passed on",
        "https://github.com/xuanjixiao/onerec",
        "https://raw.githubusercontent.com/xuanjixiao/onerec/"
        "7fd76e5417f68b6ea56af8b68cbba56a6b686c4b/lt4rec/dataset",
        {
            "part-r-00002.gz": (
                "sha256:27a61dbb3fcaf95fe714edcfa6e53aea3816c79904b9dee79cc0f306c4bc7341"
            )
        },
    ),
    "aliexpress": BehindLogin(
        licence="the provider's terms, shown with the download",
        page="https://tianchi.aliyun.com/dataset/74690",
        files=("aliexpress_NL_datasets.zip", "or another country's"),
    ),
    "tenrec": BehindLogin(
        licence="Tencent's licence agreement",
        page="https://static.qblv.qq.com/qblv/h5/algo-frontend/tenrec_dataset.html",
        files=("ctr_data_1M.csv", "or another scenario's"),
    ),
    "tiktok": BehindLogin(
        licence="academic use only",
        page="https://www.biendata.xyz/competition/icmechallenge2019/",
        files=("final_track2_train.txt.tgz",),
    ),
    "criteo_attribution": BehindLogin(
        licence="CC BY-NC-SA 4.0",
        page="https://ailab.criteo.com/criteo-attribution-modeling-bidding-dataset/",
        files=("criteo_attribution_dataset.tsv.gz",),
    ),
    "aliccp": BehindLogin(
        licence="the provider's terms, shown with the download",
        page="https://tianchi.aliyun.com/dataset/408",
        files=("sample_train.tar.gz", "sample_test.tar.gz"),
    ),
}
DRAWN = "none: drawn by cvrbench"
OWN = {"synthetic": DRAWN, "synthetic_watch": DRAWN, "table": "yours"}


def licence_of(source: str) -> str:
    """Return the terms of a source's data, by the name of its raw folder."""
    return OWN.get(source) or SOURCES[source].licence


@dataclass(frozen=True, kw_only=True)
class FetchProgress:
    """A moment of a download, in bytes; the total is None where the server does not say."""

    file_name: str
    received: int
    total: int | None


OnFetchProgress = Callable[[FetchProgress], None]


class _BrokenOffError(Exception):
    """The connection broke; what was received is kept."""


def fetch(
    name: str,
    folder: Path,
    *,
    sources: Mapping[str, Public | BehindLogin] = SOURCES,
    on_progress: OnFetchProgress = lambda _: None,
    timeout: float = 30.0,
) -> list[Path]:
    """Download a dataset's raw files into `folder`.

    A broken download is kept as `<file>.part` and continued, next time too. A file that is there
    already is not downloaded again.

    Args:
        name: Name of the source.
        folder: Usually `data_dir/raw/<name>`.
        sources: What can be downloaded.
        on_progress: Called after every piece received.
        timeout: Seconds without a byte after which a connection counts as broken.

    Raises:
        DataError: No such source, a login is needed, the server refuses, the checksum differs,
            or the disk is full.
    """
    source = sources.get(name)
    if source is None:
        raise DataError(
            f"nothing to fetch is called {name!r}.{did_you_mean(name, sources)} "
            f"Choices: {', '.join(sorted(sources))}"
        )
    if isinstance(source, BehindLogin):
        raise DataError(
            f"{name} needs a login: download {' and '.join(source.files)} from {source.page} "
            f"({source.licence}) and put them into {folder}"
        )
    files = [_Transfer(download, folder, on_progress, timeout) for download in source.downloads]
    return [file.fetch() for file in files]


class _Transfer:
    """One file on its way: `<file>.part`, and beside it the version that the server told."""

    def __init__(
        self, download: Download, folder: Path, on_progress: OnFetchProgress, timeout: float
    ) -> None:
        self.download, self.on_progress, self.timeout = download, on_progress, timeout
        self.target = folder / download.file_name
        self.part = folder / f"{download.file_name}.part"
        self.version = folder / f"{download.file_name}.part.version"

    def fetch(self) -> Path:
        """Download the file unless it is there."""
        url = self.download.url
        if urlsplit(url).scheme not in {"http", "https"}:
            raise DataError(f"{url} is neither http nor https")
        try:
            if self.target.is_file() and self._matches(self.target):
                return self.target
            self._check_folder()
            self._receive_patiently()
            if not self._matches(self.part):
                self.part.unlink()
                raise DataError(
                    f"{url} does not have the expected {self.download.checksum}; it was deleted. "
                    "Fetch it again; if it stays so, the file was changed at its source"
                )
            self.part.replace(self.target)
        except OSError as error:
            reason = "no space left" if error.errno == errno.ENOSPC else error.strerror or error
            raise DataError(
                f"cannot write {self.target}: {reason}; use --data-dir elsewhere"
            ) from None
        self.version.unlink(missing_ok=True)
        return self.target

    def _check_folder(self) -> None:
        """Write to no place that the user did not name, and to nothing but files."""
        folder = self.target.parent
        make_folder(folder, within=folder.parent.parent, key="data_dir")
        for file in (self.target, self.part, self.version):
            check_no_links(file, within=folder)
            if file.exists():
                check_regular(file)

    def _receive_patiently(self) -> None:
        for attempt in range(ATTEMPTS):
            try:
                self._receive()
            except _BrokenOffError as broken:
                if attempt == ATTEMPTS - 1:
                    raise DataError(
                        f"{self.download.url} broke off {ATTEMPTS} times ({broken}); what came is "
                        f"kept in {self.part}, and the same command goes on from there"
                    ) from None
                time.sleep(0.2 * 2**attempt)
            else:
                return

    def _receive(self) -> None:
        """Ask for what is missing of the file, and append it."""
        have = self.part.stat().st_size if self.part.exists() else 0
        headers = {"User-Agent": f"cvrbench/{__version__}"}
        if have and self.version.is_file():
            # If-Range: the server sends the rest only if the file is still the one we began.
            headers |= {"Range": f"bytes={have}-", "If-Range": self.version.read_text()}
        url = self.download.url
        opener = urllib.request.build_opener(_Redirects(self.download))
        try:
            request = urllib.request.Request(url, headers=headers)
            with opener.open(request, timeout=self.timeout) as response:
                self._append(response, self._begin(response, have))
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                self.part.unlink()
                raise _BrokenOffError("the part on disk did not fit") from None
            if error.code >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
                raise _BrokenOffError(f"HTTP {error.code}") from None
            raise DataError(f"{url}: the server answers HTTP {error.code} {error.reason}") from None
        except (
            urllib.error.URLError,
            http.client.HTTPException,
            ConnectionError,
            TimeoutError,
            ValueError,  # an address or a header that is none
        ) as error:
            raise _BrokenOffError(str(getattr(error, "reason", None) or error)) from None

    def _begin(self, response: http.client.HTTPResponse, have: int) -> int:
        """Return where the answer begins: after what we have, or at 0 if it is the whole file."""
        start = 0
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            told = re.match(r"bytes ([0-9]{1,18})-", response.headers.get("Content-Range", ""))
            if told is None or int(told[1]) != have:
                self.version.unlink(missing_ok=True)  # so that it is not asked for a part again
                raise _BrokenOffError("the server sent another range than asked for")
            start = have
        tag = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if tag is None or tag.startswith("W/") or not (tag.isascii() and tag.isprintable()):
            self.version.unlink(missing_ok=True)  # versions look alike: never continue
        else:
            self.version.write_text(tag)
        return start

    def _append(self, response: http.client.HTTPResponse, start: int) -> None:
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isascii() and length.isdigit() else None
        free = shutil.disk_usage(self.part.parent).free
        if total is not None and total - start > free:
            raise DataError(
                f"{self.download.url}: the server announces {total / 1e9:,.1f} GB, and "
                f"{free / 1e9:,.1f} GB are free in {self.part.parent}"
            )
        received = before = start
        clock = time.monotonic()
        with self.part.open("r+b" if start else "wb") as file:
            file.truncate(start)
            file.seek(start)
            while piece := response.read1(CHUNK):
                file.write(piece)
                received += len(piece)
                if total is None and received > MOST_UNTOLD:
                    raise DataError(f"{self.part.name}: the server sends without an end")
                if (now := time.monotonic()) - clock > self.timeout:
                    if received - before < SLOWEST * (now - clock):
                        raise _BrokenOffError(f"less than {SLOWEST:,} bytes a second")
                    clock, before = now, received
                name = self.download.file_name
                self.on_progress(FetchProgress(file_name=name, received=received, total=total))
        if total is not None and received < total:
            raise _BrokenOffError(f"{received:,} of {total:,} bytes")

    def _matches(self, file: Path) -> bool:
        if self.download.checksum is None:
            return True
        kind, _, digest = self.download.checksum.partition(":")
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, kind).hexdigest() == digest


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a server elsewhere, but not where the file could be forged on the way.

    Never from https to http or to another scheme; and to another host only for a file whose
    checksum is known.
    """

    def __init__(self, download: Download) -> None:
        self.download = download

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Return the request that follows, or refuse."""
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.scheme not in {"https", old.scheme}:
            raise DataError(f"{self.download.url} redirects from {old.scheme} to {new.scheme}")
        if self.download.checksum is None and not _same_site(old.hostname, new.hostname):
            raise DataError(
                f"{self.download.url} redirects to {new.hostname}, and no checksum is known by "
                "which to tell the file; download it yourself"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _same_site(one: str | None, other: str | None) -> bool:
    """Whether two hosts are one, or one is a part of the other."""
    if one is None or other is None:
        return False
    return one == other or one.endswith(f".{other}") or other.endswith(f".{one}")
