"""A real PostgreSQL server for one test, started from Debian's package (or any in the PATH)."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PASSWORD = "se:cr@t/1"
"""With every character that a URL gives a meaning."""
IN_URL = "se%3Acr%40t%2F1"
OWNER = "postgres"
"""Who runs the server where the tests run as root, which PostgreSQL refuses."""


@dataclass
class Server:
    """One that can be stopped in the middle of a test and started again."""

    programs: Path
    folder: Path
    port: int

    @property
    def url(self) -> str:
        """With the password."""
        return f"postgresql://postgres:{IN_URL}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        log = self.folder / "log"
        self.call("pg_ctl", "-w", "-t", "60", "-D", self.data, "-o", options, "-l", log, "start")

    def stop(self, mode: str = "immediate") -> None:
        self.call("pg_ctl", "-w", "-D", self.data, "-m", mode, "stop")

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def call(self, program: str, *arguments: object) -> None:
        command = [str(self.programs / program), *map(str, arguments)]
        if os.geteuid() == 0:
            command = ["runuser", "-u", OWNER, "--", *command]
        # A server would keep a pipe open for as long as it lives.
        with (self.folder / "calls").open("a") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, cwd=self.folder, timeout=90)


@contextmanager
def postgres() -> Iterator[Server]:
    """Run a server that asks for a password; skip the test where there is none."""
    programs = find()
    # Short, for a socket's name may have 107 characters, and open to the server's user.
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    server = Server(programs, folder, free_port())
    try:
        secret = folder / "secret"
        secret.write_text(PASSWORD)
        if os.geteuid() == 0:
            owner = pwd.getpwnam(OWNER)
            for path in (folder, secret):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        login = ["-U", "postgres", "-A", "scram-sha-256", f"--pwfile={secret}"]
        server.call("initdb", "--no-sync", "-E", "UTF8", *login, "-D", server.data)
        server.start()
        try:
            yield server
        finally:
            if (server.data / "postmaster.pid").exists():
                server.stop()
    finally:
        shutil.rmtree(folder)


def find() -> Path:
    """The folder of PostgreSQL's programs."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin/initdb"), shutil.which("initdb")]
    if not (programs := sorted(Path(path).parent for path in found if path)):
        pytest.skip("needs PostgreSQL's initdb: apt-get install postgresql")
    if os.geteuid() == 0:
        if OWNER not in {user.pw_name for user in pwd.getpwall()}:
            pytest.skip(f"PostgreSQL refuses root, and there is no user {OWNER} to run it")
        if shutil.which("runuser") is None:
            pytest.skip("PostgreSQL refuses root, and there is no runuser")
    return programs[-1]


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
