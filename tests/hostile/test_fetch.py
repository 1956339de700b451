"""Servers that lie, lead elsewhere, stall and drip: a download ends, and gives no false file."""

import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from cvrbench.data import downloads as fetch_module
from cvrbench.data.downloads import Download, Public, fetch
from cvrbench.errors import DataError

# urllib leaves the connection open that sent a redirect to what is no address.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

CONTENT = bytes(range(256)) * 40
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
Answer = Callable[[socket.socket, bytes], None]


def head(status: str = "200 OK", **headers: object) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "Connection: close", "", ""]).encode(
        "latin-1"
    )


class Server:
    """Answers the n-th connection with the n-th answer, the last one again and again."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.socket = socket.create_server((host, 0))
        self.host, self.port = host, self.socket.getsockname()[1]
        self.answers: list[Answer] = []
        self.asked: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):  # the client may have had enough
            request = b""
            while b"\r\n\r\n" not in request:
                if not (piece := connection.recv(4096)):
                    return
                request += piece
            self.asked.append(request)
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            answer(connection, request)

    def source(self, checksum: str | None = DIGEST):
        url = f"http://{self.host}:{self.port}/data.bin"
        download = Download(url=url, file_name="data.bin", checksum=checksum)
        return {"mine": Public(licence="ours", page="here", downloads=(download,))}


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    sleep = time.sleep
    monkeypatch.setattr(fetch_module.time, "sleep", lambda _: None)
    running = Server()
    running.sleep = sleep
    yield running
    running.socket.close()


def says(*parts: bytes) -> Answer:
    return lambda connection, _: connection.sendall(b"".join(parts))


def get(server: Server, folder, checksum: str | None = DIGEST, timeout: float = 2.0) -> bytes:
    (file,) = fetch("mine", folder, sources=server.source(checksum), timeout=timeout)
    return file.read_bytes()


@pytest.mark.parametrize("length", ["nonsense", "-5", "1e9", "", "\u00b2"])
def test_a_length_that_is_no_number_is_no_length(length, server, tmp_path):
    server.answers = [says(head(Content_Length=length), CONTENT)]
    assert get(server, tmp_path) == CONTENT


def test_a_length_that_is_too_short_gives_no_file(server, tmp_path):
    server.answers = [says(head(Content_Length=len(CONTENT) - 5), CONTENT)]
    with pytest.raises(DataError, match="does not have the expected"):
        get(server, tmp_path)
    assert not (tmp_path / "data.bin").exists()


def test_a_length_that_is_too_long_gives_no_file(server, tmp_path):
    server.answers = [says(head(Content_Length=len(CONTENT) + 5), CONTENT)]
    with pytest.raises(DataError, match=r"broke off 5 times \(10,240 of 10,245 bytes\)"):
        get(server, tmp_path, checksum=None)
    assert not (tmp_path / "data.bin").exists()


def test_an_announced_petabyte_is_refused_before_it_fills_the_disk(server, tmp_path):
    server.answers = [says(head(Content_Length=10**15), CONTENT)]
    with pytest.raises(DataError, match=r"announces 1,000,000\.0 GB"):
        get(server, tmp_path)
    assert len(server.asked) == 1


def test_a_stream_without_a_length_or_an_end_is_cut(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_module, "MOST_UNTOLD", 1 << 20)

    def for_ever(connection, _):
        connection.sendall(head())
        while True:
            connection.sendall(bytes(1 << 16))

    server.answers = [for_ever]
    with pytest.raises(DataError, match="without an end"):
        get(server, tmp_path)
    assert (tmp_path / "data.bin.part").stat().st_size < 1 << 21


def test_a_server_that_stalls_is_left(server, tmp_path):
    def stall(connection, _):
        connection.sendall(head(Content_Length=len(CONTENT)) + CONTENT[:100])
        server.sleep(30)

    server.answers = [stall]
    begun = time.monotonic()
    with pytest.raises(DataError, match="broke off 5 times"):
        get(server, tmp_path, timeout=0.3)
    assert time.monotonic() - begun < 15
    assert not (tmp_path / "data.bin").exists()


def test_a_server_that_drips_is_left_though_it_never_stalls(server, tmp_path):
    def drip(connection, _):
        connection.sendall(head(Content_Length=len(CONTENT)))
        for value in CONTENT:
            connection.sendall(bytes([value]))
            server.sleep(0.02)

    server.answers = [drip]
    begun = time.monotonic()
    with pytest.raises(DataError, match=r"less than 1,024 bytes a second"):
        get(server, tmp_path, timeout=0.5)
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    "target",
    ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,x", "gopher://127.0.0.1/x"],
)
def test_a_redirect_to_another_scheme_is_refused(target, server, tmp_path):
    server.answers = [says(head("302 Found", Location=target))]
    with pytest.raises(DataError, match=r"redirects from http to|is not allowed"):
        get(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_redirect_from_https_to_http_is_refused():
    download = Download(url="https://a.org/x", file_name="x", checksum=DIGEST)
    follow = fetch_module._Redirects(download).redirect_request
    request = fetch_module.urllib.request.Request(download.url)
    with pytest.raises(DataError, match="redirects from https to http"):
        follow(request, None, 302, "Found", {}, "http://a.org/x")
    assert follow(request, None, 302, "Found", {}, "https://b.org/x").full_url == "https://b.org/x"


def test_another_host_is_followed_only_where_the_checksum_is_known(server, tmp_path):
    other = Server("127.0.0.2")
    other.answers = [says(head(Content_Length=len(CONTENT)), CONTENT)]
    server.answers = [says(head("302 Found", Location=f"http://127.0.0.2:{other.port}/x"))]
    with pytest.raises(DataError, match=r"redirects to 127\.0\.0\.2, and no checksum"):
        get(server, tmp_path, checksum=None)
    assert other.asked == []
    assert get(server, tmp_path) == CONTENT
    other.socket.close()


def test_a_part_of_a_site_is_the_site():
    assert fetch_module._same_site("a.org", "www.a.org")
    assert fetch_module._same_site("www.a.org", "a.org")
    assert not fetch_module._same_site("a.org", "evila.org")
    assert not fetch_module._same_site(None, None)


@pytest.mark.parametrize("target", ["http://[::1", "//"])
def test_a_redirect_to_nowhere_is_an_error_like_any_other(target, server, tmp_path):
    server.answers = [says(head("302 Found", Location=target))]
    with pytest.raises(DataError):
        get(server, tmp_path)


def test_a_circle_of_redirects_ends(server, tmp_path):
    server.answers = [says(head("302 Found", Location="/data.bin"))]
    with pytest.raises(DataError):
        get(server, tmp_path)
    assert len(server.asked) <= 60


@pytest.mark.parametrize(
    "answer",
    [
        head("206 Partial Content", Content_Range="bytes 0-10/11", Content_Length=11) + bytes(11),
        head("206 Partial Content", Content_Length=11) + bytes(11),
        head(
            "206 Partial Content", Content_Range="bytes 9999999999999999999999-", Content_Length=1
        ),
        head("206 Partial Content", Content_Type="multipart/byteranges; boundary=x") + b"--x--",
    ],
)
def test_a_range_that_was_not_asked_for_is_not_glued_on(answer, server, tmp_path):
    begin = head(Content_Length=len(CONTENT), ETag='"one"') + CONTENT[:5000]
    whole = head(Content_Length=len(CONTENT), ETag='"one"') + CONTENT
    server.answers = [says(begin), says(answer), says(whole)]
    assert get(server, tmp_path) == CONTENT
    assert [b"Range: bytes=5000-" in asked for asked in server.asked] == [False, True, False]


def test_a_tag_with_commands_in_it_is_no_tag(server, tmp_path):
    begin = head(Content_Length=len(CONTENT), ETag='"a"\r\n\tX-Evil: 1') + CONTENT[:5000]
    whole = head(Content_Length=len(CONTENT)) + CONTENT
    server.answers = [says(begin), says(whole)]
    assert get(server, tmp_path) == CONTENT
    assert b"Evil" not in b"".join(server.asked)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\r\n\r\n",
        b"HTTP/9.9 what\r\n\r\n",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 200\r\n" + b"a" * 70000,
    ],
)
def test_what_is_no_http_is_an_error_like_any_other(answer, server, tmp_path):
    server.answers = [says(answer)]
    with pytest.raises(DataError):
        get(server, tmp_path, timeout=0.5)
    assert not (tmp_path / "data.bin").exists()
