"""What holds everywhere, tried as a user would: in processes of their own."""

from __future__ import annotations

import json
import os
import pty
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import places
from nixfetch.cli.app import VERBS
from servers import Answer, LoopbackServer, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

FIXTURES = Path(__file__).parents[2] / "fixtures"
PATHS: dict[str, Any] = json.loads((FIXTURES / "paths.json").read_text())
ROOT, GREET = PATHS["root"], PATHS["roles"]["dynamic"]
KEY = PATHS["keys"]["fixture-1"]["public"]
COMMAND = [sys.executable, "-m", "nixfetch.cli"]
CLEAN = {"PATH": os.environ["PATH"], "HOME": "/nowhere"}
CPU = 0.150  # seconds
HEAVY = [
    "_bz2",
    "_lzma",
    "asyncio",
    "boto3",
    "botocore",
    "brotli",
    "bz2",
    "concurrent.futures",
    "cryptography",
    "grpc",
    "httpx",
    "importlib.metadata",
    "lz4",
    "lzma",
    "multiprocessing",
    "rich",
    "shutil",
    "sqlite3",
    "ssl",
    "zstandard",
]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def fetch(store: Path) -> list[str]:
    """The arguments that fetch the closure of the fixtures."""
    cache = (FIXTURES / "cache-zstd").as_uri()
    return ["fetch", ROOT, "--from", cache, "--trusted-key", KEY, "--store", str(store)]


def nixfetch(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    options = {"env": CLEAN, "capture_output": True, "timeout": 60, **options}
    return subprocess.run([*COMMAND, *arguments], text=True, check=False, **options)


def shell(script: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run ``"$@"``, which is the command with `arguments`, as `script` has it."""
    return subprocess.run(
        ["bash", "-c", script, "bash", *COMMAND, *arguments],
        env=CLEAN | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def is_whole(store: Path) -> bool:
    """Whether `store` holds the closure, and nothing beside it."""
    names = places.names(store / "nix/store")
    return names == sorted(Path(path).name for path in PATHS["closure"])


# Streams.


@pytest.mark.parametrize(
    ("streams", "out", "err"),
    [
        (">&-", False, True),
        ("2>&-", True, False),
        (">&- 2>&-", False, False),
        ("<&- >&- 2>&-", False, False),
        ("<&-", True, True),
    ],
)
def test_closed_streams(fetch: list[str], store: Path, streams: str, out: bool, err: bool) -> None:
    done = shell(f'"$@" {streams}', *fetch)
    assert done.returncode == 0
    assert done.stdout == (f"{store}{ROOT}\n" if out else "")
    assert done.stderr.startswith("fetched 11 paths") is err
    assert is_whole(store)


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["fetch", "--help"], ["bogus"], []])
def test_closed_streams_and_no_work(words: list[str]) -> None:
    code = 2 if words in ([], ["bogus"]) else 0
    assert shell('"$@" >&- 2>&-', *words).returncode == code


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    done = shell('"$@" | head -1; echo ${PIPESTATUS[0]}', "--help")
    assert done.stdout.splitlines() == ["usage: nixfetch [FLAGS] VERB ...", "0"]
    assert done.stderr == ""
    done = shell('set -o pipefail; "$@" | true', "config", "show")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_behind_stdout() -> None:
    done = shell('"$@" >/dev/full', "config", "show")
    assert done.returncode == 6
    assert done.stderr.startswith("error: cannot write to stdout\n")
    assert shell('"$@" 2>/dev/full', "bogus").returncode == 2


# Environments.


@pytest.mark.parametrize(
    "environ",
    [
        {"LANG": "C"},
        {"LC_ALL": "POSIX"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "en_US.ISO-8859-1", "PYTHONUTF8": "0"},
        {"NO_COLOR": "1"},
        {"TERM": "dumb"},
        {"PYTHONIOENCODING": "ascii:strict"},
    ],
)
def test_languages_and_terminals(fetch: list[str], store: Path, environ: dict[str, str]) -> None:
    assert shell('"$@"', "fetch", "--help", **environ).returncode == 0
    done = shell('"$@"', *fetch, **environ)
    assert (done.returncode, done.stdout) == (0, f"{store}{ROOT}\n")
    done = shell('"$@"', "fetch", "/tmp/né\udcff", **environ)
    assert done.returncode == 2
    assert "not a store path" in done.stderr


def test_file_names_that_are_no_utf8(fetch: list[str], tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/odd-\xff"
    done = subprocess.run(
        [*COMMAND, *fetch[:-1], odd], env=CLEAN, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, odd + ROOT.encode() + b"\n")


def test_no_home(fetch: list[str], store: Path) -> None:
    environ = {name: value for name, value in CLEAN.items() if name != "HOME"}
    assert nixfetch(*fetch, env=environ).returncode == 0
    assert is_whole(store)


def test_a_home_that_cannot_be_written_to(fetch: list[str], store: Path) -> None:
    environ = CLEAN | {"HOME": "/proc/self"}
    assert nixfetch(*fetch, env=environ).returncode == 0
    assert is_whole(store)
    done = nixfetch(*fetch[:-2], env=environ)
    assert done.returncode == 6
    assert "  store: /proc/self/.local/share/nixfetch\n" in done.stderr


def test_nothing_says_where_the_store_is_and_the_user_has_no_passwd_entry(
    fetch: list[str], store: Path
) -> None:
    become = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]
    if shutil.which("unshare") is None or subprocess.run([*become, "true"], check=False).returncode:
        pytest.skip("cannot make a user namespace")
    environ = {"PATH": CLEAN["PATH"]}

    def ran(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*become, *COMMAND, *arguments],
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    done = ran(*fetch[:-2])
    assert done.returncode == 78
    assert done.stderr.startswith("error: nothing says where the store is\nhint: give --store ROOT")
    assert ran(*fetch).returncode == 0
    assert is_whole(store)


# Signals.


@pytest.fixture
def slow() -> Iterator[LoopbackServer]:
    """The cache of the fixtures, where one NAR comes to a halt after its first bytes."""
    narinfo = (FIXTURES / f"cache-zstd/{Path(GREET).name[:32]}.narinfo").read_text()
    name = next(line[5:] for line in narinfo.splitlines() if line.startswith("URL: "))
    body = (FIXTURES / "cache-zstd" / name).read_bytes()
    with LoopbackServer(FIXTURES / "cache-zstd") as server:
        server.faults[name] = Answer(body, piece=100, pause=60.0)
        yield server


def begun(
    server: LoopbackServer, store: Path, *flags: str, stderr: int = subprocess.PIPE
) -> subprocess.Popen[str]:
    """A fetch that hangs at the slow NAR."""
    process = subprocess.Popen(
        [
            *COMMAND,
            "fetch",
            ROOT,
            "--from",
            server.url,
            "--trusted-key",
            KEY,
            "--store",
            store,
            *flags,
        ],
        env=CLEAN,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
    (slow_name,) = server.faults
    wait_until(lambda: server.asked(slow_name) > 0 and _registered(store) >= 9, seconds=30)
    return process


def _registered(store: Path) -> int:
    directory = store / "nix/store"
    names = [entry.name for entry in directory.iterdir()] if directory.exists() else []
    passing = ("-nixfetch.", ".lock", ".links")
    return sum(not any(part in name for part in passing) for name in names)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_in_mid_fetch(
    slow: LoopbackServer, store: Path, number: signal.Signals, code: int
) -> None:
    with begun(slow, store) as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert out == ""
    assert f"error: interrupted by {number.name}\n" in err
    assert "Traceback" not in err
    names = set(places.names(store / "nix/store"))
    assert not names & {Path(GREET).name, Path(ROOT).name}
    assert names < {Path(path).name for path in PATHS["closure"]}
    assert not list((store / "nix/var/nix/temproots").iterdir())
    slow.faults.clear()
    done = nixfetch("fetch", ROOT, "--from", slow.url, "--trusted-key", KEY, "--store", str(store))
    assert done.returncode == 0
    assert done.stderr.startswith("fetched 2 paths, ")
    assert is_whole(store)


def test_two_signals_at_once_are_one(slow: LoopbackServer, store: Path) -> None:
    """As `timeout` sends them, to a process and to its group; or a terminal and a supervisor."""
    with begun(slow, store) as process:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            process.send_signal(number)
        _, err = process.communicate(timeout=20)
    assert process.returncode in {130, 143}
    assert "error: interrupted by SIG" in err
    names = set(places.names(store / "nix/store"))
    assert names < {Path(path).name for path in PATHS["closure"]}


@contextmanager
def full_pipe() -> Iterator[int]:
    """The end for writing of a pipe that nobody reads: whoever writes to it waits."""
    reader, writer = os.pipe()
    try:
        os.set_blocking(writer, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writer, b"\n")
        os.set_blocking(writer, True)
        yield writer
    finally:
        os.close(reader)
        os.close(writer)


def test_a_second_interrupt_ends_at_once(slow: LoopbackServer, store: Path) -> None:
    with full_pipe() as stderr, begun(slow, store, "--progress", "none", stderr=stderr) as process:
        # It cannot say that it was interrupted; the first half second is one and the same.
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.1)
        process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT


def test_an_ignored_interrupt_stays_ignored(slow: LoopbackServer, store: Path) -> None:
    process = subprocess.Popen(
        [
            "bash",
            "-c",
            'trap "" INT; exec "$@"',
            "bash",
            *COMMAND,
            "fetch",
            ROOT,
            "--from",
            slow.url,
            "--trusted-key",
            KEY,
            "--store",
            str(store),
        ],
        env=CLEAN,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with process:
        wait_until(lambda: _registered(store) >= 9, seconds=30)
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.terminate()
        assert process.wait(20) == 143


# Progress.


def test_a_silent_network_still_shows_a_line(slow: LoopbackServer, store: Path) -> None:
    with begun(slow, store) as process:
        assert process.stderr is not None
        ready, _, _ = select.select([process.stderr], [], [], 15)
        assert ready
        line = process.stderr.readline()
        process.terminate()
        process.communicate(timeout=20)
    assert line.startswith("9/11 paths, ")
    assert line.endswith("waits for network\n")


def test_the_bar_of_a_terminal(slow: LoopbackServer, store: Path) -> None:
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    with subprocess.Popen(
        [*COMMAND, "fetch", ROOT, "--from", slow.url, "--trusted-key", KEY, "--store", store],
        env=CLEAN | {"TERM": "xterm"},
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        seen = b""

        def draws() -> bool:
            nonlocal seen
            seen += _available(ours)
            return b"9/11 paths" in seen

        wait_until(draws, seconds=30)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: process.poll() is not None, seconds=20)
        seen += _available(ours)
    os.close(ours)
    erase = b"\r\x1b[J"
    assert erase + b"error: interrupted by SIGTERM\r\n" in seen
    for drawn in seen.split(b"\n")[0].split(erase):
        assert len(drawn) < 80


def _available(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 20)
    except OSError:  # nothing yet, or nobody writes any more
        return b""


def test_a_dumb_terminal_gets_no_bar(fetch: list[str]) -> None:
    ours, theirs = pty.openpty()
    for environ in ({"TERM": "dumb"}, {}):
        process = subprocess.Popen(
            [*COMMAND, *fetch], env=CLEAN | environ, stdout=subprocess.DEVNULL, stderr=theirs
        )
        assert process.wait(60) == 0
        assert b"\x1b" not in os.read(ours, 1 << 16)
    os.close(theirs)
    os.close(ours)


# Answers at once.


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)]
)
def test_answers_within_150_ms_of_cpu(words: list[str]) -> None:
    costs = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert nixfetch(*words).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(costs) < CPU


@pytest.mark.parametrize("words", [["--help"], *([verb, "--help"] for verb in VERBS), ["bogus"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    script = (
        "import sys; before = set(sys.modules)\n"
        "from nixfetch.cli import app\n"
        f"app.run({words!r})\n"
        "print(*set(sys.modules) - before, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=CLEAN, capture_output=True, text=True, check=True
    )
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "argparse" in loaded
    assert not loaded & set(HEAVY)


# Secrets.


def test_no_secret_in_any_output(tmp_path: Path) -> None:
    with LoopbackServer({}) as server:
        url = server.url.replace("://", "://user:hunter2@")
        for flags in (
            [],
            ["-vv"],
            ["--log-format", "json"],
            ["--json"],
            ["-vv", "--progress", "json"],
        ):
            done = nixfetch("fetch", ROOT, "--from", url, "--store", str(tmp_path), *flags)
            assert done.returncode == 3
            assert "hunter2" not in done.stdout + done.stderr
    secret = (FIXTURES / "keys/fixture-1.secret").read_text().strip()
    done = nixfetch("config", "show", "--trusted-key", secret)
    assert done.returncode == 2
    assert secret.partition(":")[2][:20] not in done.stdout + done.stderr
