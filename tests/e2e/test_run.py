"""`nixfetch run`, as root and as somebody whom nobody knows, on machines with and without a /nix.

Each command is a process of its own, which becomes the program.
"""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from e2e.conftest import NIXFETCH, PATH, PATIENCE
from simulated_cache import KEY, Executable, Link, SimulatedCache
from worlds import MACHINES, lacking, ordinary_user

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.conftest import Demo
    from nixfetch.formats.storepath import StorePath

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become others"),
    pytest.mark.skipif(bool(lacking()), reason=f"needs {lacking()}"),
]
DO = Executable(b'#!/bin/sh\nexec "$@"\n')
SAY = Executable(b'#!/bin/sh\necho "$0" "$@"\n')
MINUTE = 60.0  # seconds; all is over in much less


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of one command."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Probe:
    """Store paths with programs that need a /bin/sh and nothing else."""

    url: str
    tool: StorePath
    """Its program runs its arguments."""
    file: StorePath
    link: StorePath
    words: StorePath
    script: StorePath
    """A file that is a program."""
    wrapper: StorePath
    """Its bin is a link to that of `tool`."""
    several: StorePath
    nothing: StorePath
    broken: StorePath
    """Its program has an interpreter that is not there."""
    alone: StorePath
    """Nobody refers to it."""

    @property
    def closure(self) -> list[str]:
        """Of `tool`; names, ascending."""
        return sorted(path.base for path in (self.tool, self.file, self.link, self.words))


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory that every user may enter."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def probe(place: Path) -> Probe:
    cache = SimulatedCache()
    words = cache.add("words-1", {b"word": b"from the closure\n"})
    file = cache.add("note.txt", b"from a file\n")
    link = cache.add("link", Link(str(file).encode()), references=[file])
    tool = cache.add(
        "tool-1.2",
        {
            b"bin": {b"tool": DO, b".tool-wrapped": DO, b"say": SAY},
            b"lib": Link(str(words).encode()),
        },
        references=[words, file, link],
    )
    probe = Probe(
        url=f"file://{place}/cache",
        tool=tool,
        file=file,
        link=link,
        words=words,
        script=cache.add("script.sh", SAY),
        wrapper=cache.add("wrapper-1", {b"bin": Link(f"{tool}/bin".encode())}, references=[tool]),
        several=cache.add("several-1", {b"bin": {b"one": SAY, b"two": SAY, b"data": b""}}),
        nothing=cache.add("nothing-1", {b"share": {}}),
        broken=cache.add("broken-1", {b"bin": {b"broken": Executable(b"#!/nix/store/gone/sh\n")}}),
        alone=cache.add("alone-1", {b"x": b"x"}),
    )
    cache.dump(place / "cache")
    return probe


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who runs `nixfetch run`, on some machine."""

    store: Path
    before: tuple[str, ...] = NIXFETCH
    machine: str = "as it is"

    def command(self, *words: object, flags: tuple[str, ...] = ()) -> list[str]:
        first = [*MACHINES[self.machine], *self.before, "run", "--store", str(self.store), *flags]
        return [*first, *map(str, words)]

    def __call__(
        self,
        *words: object,
        flags: tuple[str, ...] = (),
        stdin: str = "",
        cwd: Path | str | None = None,
        environ: dict[str, str] | None = None,
    ) -> Ran:
        done = subprocess.run(
            self.command(*words, flags=flags),
            env={"PATH": PATH, "HOME": "/nonexistent", **(environ or {})},
            cwd=cwd or self.store,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def store(place: Path, probe: Probe) -> Path:
    """A store of root's, which has all of them."""
    store = place / "store"
    command = [*NIXFETCH, "fetch", "--store", str(store), "--from", probe.url]
    command += ["--trusted-key", str(KEY.public())]
    paths = [probe.tool, probe.script, probe.wrapper, probe.several, probe.nothing, probe.broken]
    subprocess.run([*command, *map(str, paths), str(probe.alone)], check=True, capture_output=True)
    return store


@pytest.fixture
def root(store: Path) -> Caller:
    return Caller(store)


@pytest.fixture(scope="module")
def before_user() -> tuple[str, ...]:
    before = ordinary_user()
    if before is None:
        pytest.skip("no Python with the packages that every user may run")
    return tuple(before)


@pytest.fixture
def user(store: Path, before_user: tuple[str, ...], probe: Probe) -> Caller:
    caller = Caller(store, before_user)
    ran = caller(probe.tool, "true")
    if "user namespaces are not allowed here" in ran.err:
        pytest.skip(f"this kernel gives an ordinary user no namespace: {ran.err}")
    return caller


@pytest.fixture(params=["root", "user"])
def caller(request: pytest.FixtureRequest) -> Caller:
    found: Caller = request.getfixturevalue(request.param)
    return found


LOOK = """
pwd
ls -A /nix/store
cat "$TOOL/lib/word" "$LINK"
for place in /nix/store "$TOOL" "$TOOL/bin" "$FILE"; do
  (: >"$place/new") 2>/dev/null || echo refused
done
(: >"$FILE") 2>/dev/null || echo refused
grep -c ' /nix/store/' /proc/self/mounts
ls -A /nix
"""


@pytest.mark.parametrize("machine", MACHINES)
def test_the_closure_is_in_view_and_nothing_else(
    caller: Caller, probe: Probe, machine: str
) -> None:
    there = Caller(caller.store, caller.before, machine)
    names = {"TOOL": str(probe.tool), "LINK": str(probe.link), "FILE": str(probe.file)}
    mounts = Path("/proc/self/mountinfo").read_text()
    ran = there(probe.tool, "sh", "-c", LOOK, environ=names)
    assert (ran.code, ran.err) == (0, "")
    others = {
        "without /nix": [],
        "without /nix, read-only": [],
        "with a /nix": ["file", "var"],
        "with a /nix/store": ["var"],
    }.get(machine)
    if others is None:
        nix = Path("/nix")
        others = (
            [each.name for each in nix.iterdir() if each.name != "store"] if nix.is_dir() else []
        )
    assert ran.out.splitlines() == [
        str(caller.store),
        *probe.closure,
        "from the closure",
        "from a file",
        *["refused"] * 5,
        "3",
        *sorted([*others, "store"]),
    ]
    assert Path("/proc/self/mountinfo").read_text() == mounts


@pytest.mark.parametrize("machine", MACHINES)
def test_the_rest_of_the_machine_is_as_it_was(caller: Caller, probe: Probe, machine: str) -> None:
    before = MACHINES[machine]
    look = ["sh", "-c", "ls -A /; id -u; id -g; cat /etc/passwd; ls /proc/self/fd; ls -d /dev/null"]
    plain = subprocess.run([*before, *look], capture_output=True, text=True, check=True, cwd="/")
    there = Caller(caller.store, caller.before, machine)
    ran = there(probe.tool, *look, cwd="/")
    expected = plain.stdout.splitlines()
    if "nix" not in expected:
        expected = (
            sorted([*expected[: expected.index("0")], "nix"]) + expected[expected.index("0") :]
        )
    if caller.before != NIXFETCH:
        expected[expected.index("0") : expected.index("0") + 2] = ["12345", "12345"]
    assert ran.err == ""
    assert ran.out.splitlines() == expected


SHARED = """
mount --make-rshared /
before=$(cat /proc/self/mountinfo)
"$@"
[ "$(cat /proc/self/mountinfo)" = "$before" ] || echo leaked
"""


@pytest.mark.parametrize("machine", ["without /nix", "with a /nix/store"])
def test_no_mount_gets_out_where_mounts_are_shared(
    caller: Caller, probe: Probe, machine: str
) -> None:
    """As systemd has it: what is mounted in one namespace, others see."""
    outside = [*MACHINES[machine], "sh", "-euc", SHARED, "sh"]
    done = subprocess.run(
        [*outside, *caller.command(probe.tool, "ls", "/nix/store")],
        env={"PATH": PATH},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert (done.stdout.split(), done.stderr) == (probe.closure, "")


def test_the_fixture_closure_runs(demo: Demo, tmp_path: Path) -> None:
    """A real program with a loader and libraries of its own; it is fetched when it is missing."""
    there = Caller(tmp_path / "store")
    flags = ("--from", demo.cache("cache-zstd").as_uri(), "--trusted-key", demo.key)
    for role, program in demo.programs.items():
        ran = there(program, "you", flags=flags, cwd="/")
        assert (ran.code, ran.out) == (0, demo.output[role])
        assert "fetched " in ran.err
        again = there(program, "you", cwd="/")
        assert (again.code, again.out, again.err) == (0, demo.output[role], "")
    ran = there(demo.root, "you", flags=flags, cwd="/")
    assert "fetched " in ran.err


def test_a_user_fetches_into_a_store_of_its_own(
    before_user: tuple[str, ...], user: Caller, probe: Probe, place: Path
) -> None:
    home = place / "home"
    home.mkdir()
    os.chown(home, 12345, 12345)
    there = Caller(home / "store", before_user)
    flags = ("--from", probe.url, "--trusted-key", str(KEY.public()))
    ran = there(probe.tool, "id", "-u", flags=flags, cwd="/")
    assert (ran.code, ran.out) == (0, "12345\n"), ran.err
    assert "fetched 4 paths" in ran.err
    assert there(probe.tool, "id", "-u", cwd="/") == Ran(0, "12345\n", "")


def test_a_store_that_lacks_something_and_may_not_be_written_to(
    user: Caller, probe: Probe, demo: Demo
) -> None:
    flags = ("--from", demo.cache("cache-zstd").as_uri(), "--trusted-key", demo.key)
    ran = user(demo.root, flags=flags)
    assert ran.code == 125
    assert "permission denied" in ran.err


def test_what_is_not_to_be_believed_is_not_run(probe: Probe, tmp_path: Path) -> None:
    there = Caller(tmp_path / "store")
    ran = there(probe.tool, "echo", "x", flags=("--from", probe.url), cwd="/")
    assert (ran.code, ran.out) == (125, "")
    assert "keys" in ran.err


def test_arguments_come_through(caller: Caller, probe: Probe) -> None:
    program = f"{probe.tool}/bin/say"
    assert (
        caller(program, "--help", "-v", "--", "--store").out == f"{program} --help -v -- --store\n"
    )
    assert caller(program, "--", "--help").out == f"{program} --help\n"
    assert caller(program, "--", "--", "x").out == f"{program} -- x\n"
    odd = ["", " a  b ", "\udcff", "$(x)", "'\"\n"]
    done = subprocess.run(
        caller.command(probe.tool, "printf", "%s\\0", *odd),
        env={"PATH": PATH},
        cwd="/",
        capture_output=True,
        check=True,
    )
    assert done.stdout.split(b"\0")[:-1] == [os.fsencode(word) for word in odd]


def test_other_ways_to_name_a_program(caller: Caller, probe: Probe) -> None:
    tool = probe.tool
    for name in (f"{tool}/bin/say", f"{tool.base}/bin/say", f"{tool.hash_part}/bin/say"):
        assert caller(name, "x").out == f"{tool}/bin/say x\n"
    assert caller(probe.script, "x") == Ran(0, f"{probe.script} x\n", "")
    assert caller(f"{probe.wrapper}/bin/say", "x").out == f"{probe.wrapper}/bin/say x\n"
    ran = caller(probe.wrapper)
    assert ran.code == 125
    assert "programs: say, tool" in ran.err


def test_a_program_has_to_be_clear_to_be_there_and_to_be_one(caller: Caller, probe: Probe) -> None:
    ran = caller(probe.several)
    assert (ran.code, ran.out) == (125, "")
    assert ran.err == (
        f"error: the store path has several programs: {probe.several}\n"
        "  programs: one, two\n"
        f"hint: say which: {probe.several}/bin/one\n"
    )
    ran = caller(probe.nothing)
    assert ran.code == 127
    assert ran.err == f"error: the store path has no programs in bin: {probe.nothing}\n"
    ran = caller(f"{probe.tool}/bin/nobody")
    assert ran.code == 127
    assert ran.err == f"error: there is no such program: {probe.tool}/bin/nobody\n"
    for program, reason in (
        (f"{probe.several}/bin/data", "permission denied"),
        (f"{probe.tool}/bin", "it is a directory"),
        (probe.broken, "its loader or interpreter is not there"),
    ):
        ran = caller(program)
        assert ran.code == 126
        assert ran.err.endswith(f"\n  reason: {reason}\n")


def test_the_exit_code_is_the_program_s(caller: Caller, probe: Probe) -> None:
    for code in (0, 1, 3, 125, 255):
        assert caller(probe.tool, "sh", "-c", f"exit {code}") == Ran(code, "", "")
    assert caller(probe.tool, "sh", "-c", "kill -KILL $$").code == -signal.SIGKILL


def signals(line: str) -> int:
    """The mask without signals 32 and 33, which the C library keeps for itself."""
    return int(line.split()[1], 16) & 0x7FFF_FFFF


def ignored_by_a_child() -> int:
    """What a program gets that is started without us: whoever runs tests may ignore some."""
    command = ["grep", "SigIgn", "/proc/self/status"]
    return signals(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_it_is_the_process_that_was_started(caller: Caller, probe: Probe) -> None:
    """Signals reach the program, and none is ignored for it."""
    script = 'trap "echo stopped; exit 7" TERM; echo $$; grep SigIgn /proc/self/status; cat; '
    command = caller.command(probe.tool, "sh", "-c", script + "while :; do sleep 0.1; done")
    with subprocess.Popen(
        command,
        env={"PATH": PATH},
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("from stdin\n")
            process.stdin.close()
            assert process.stdout.readline() == f"{process.pid}\n"
            assert signals(process.stdout.readline()) == ignored_by_a_child()
            assert process.stdout.readline() == "from stdin\n"
            process.terminate()
            assert process.stdout.read() == "stopped\n"
            assert process.wait(MINUTE) == 7
        finally:
            process.kill()


def test_a_terminal_stays_one(caller: Caller, probe: Probe) -> None:
    leader, follower = pty.openpty()
    try:
        subprocess.run(
            caller.command(probe.tool, "sh", "-c", "tty; test -t 0 -a -t 1 -a -t 2 && echo yes"),
            env={"PATH": PATH},
            cwd="/",
            stdin=follower,
            stdout=follower,
            stderr=follower,
            timeout=PATIENCE,
            check=True,
        )
        name, answer = os.read(leader, 1000).split()
        assert (name.decode(), answer) == (os.ttyname(follower), b"yes")
    finally:
        os.close(leader)
        os.close(follower)


def test_open_files_are_handed_on_and_ours_are_not(root: Caller, probe: Probe) -> None:
    read, write = os.pipe()
    try:
        done = subprocess.run(
            root.command(
                probe.tool, "sh", "-c", f"echo x >/proc/self/fd/{write}; ls /proc/self/fd"
            ),
            env={"PATH": PATH},
            cwd="/",
            pass_fds=[write],
            capture_output=True,
            text=True,
            check=True,
        )
        assert os.read(read, 10) == b"x\n"
        assert done.stdout.split() == sorted(["0", "1", "2", "3", str(write)])
    finally:
        os.close(read)
        os.close(write)


def test_what_runs_is_not_collected(root: Caller, probe: Probe, tmp_path: Path) -> None:
    """Though the program is a script, and all that the kernel knows of is its /bin/sh."""
    there = Caller(tmp_path / "store")
    flags = ("--from", probe.url, "--trusted-key", str(KEY.public()))
    assert there(probe.alone, "x", flags=flags, cwd="/").code == 127
    command = there.command(probe.tool, "sh", "-c", "echo; read line", flags=flags)
    collect = [*NIXFETCH, "gc", "--store", str(there.store)]
    with subprocess.Popen(
        command, env={"PATH": PATH}, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            done = subprocess.run(collect, capture_output=True, text=True, check=True)
            assert str(probe.alone) in done.stdout
            assert str(probe.tool) not in done.stdout
            process.communicate(b"\n", timeout=MINUTE)
            assert process.returncode == 0
        finally:
            process.kill()
    done = subprocess.run(collect, capture_output=True, text=True, check=True)
    assert str(probe.tool) in done.stdout


def test_one_runs_another(caller: Caller, probe: Probe) -> None:
    # Who has become somebody else already has no right to do so again.
    before = (
        caller.before[caller.before.index("env") :] if "env" in caller.before else caller.before
    )
    inner = Caller(caller.store, before).command(f"{probe.wrapper}/bin/say", "x")
    ran = caller(f"{probe.tool}/bin/tool", "env", f"PATH={PATH}", *inner)
    assert (ran.code, ran.out) == (0, f"{probe.wrapper}/bin/say x\n")


def test_a_store_without_exec_is_refused(probe: Probe, store: Path, tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o noexec t "$0"; cp -a "$STORE/." "$0"; exec "$@"'
    private = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", script]
    private.append(str(tmp_path))
    command = [*private, *NIXFETCH, "run", "--store", str(tmp_path), str(probe.script)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": PATH, "STORE": str(store)},
    )
    assert done.returncode == 125
    assert done.stderr.startswith("error: the file system of the store is mounted with noexec")
    assert "hint: mount it with exec" in done.stderr


def test_where_user_namespaces_are_forbidden_it_says_what_to_do(user: Caller, probe: Probe) -> None:
    """In a user namespace whose owner allows no further ones."""
    script = 'echo 0 >/proc/sys/user/max_user_namespaces; exec setpriv --bounding-set=-all "$@"'
    outer = ["unshare", "--user", "--map-root-user", "sh", "-euc", script, "sh"]
    at = user.before.index("env")
    command = [*user.before[:at], *outer, *user.command(probe.script)[at:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": PATH})
    assert done.returncode == 125
    assert done.stderr.startswith("error: user namespaces are not allowed here\n")
    assert "hint: allow them with `sysctl user.max_user_namespaces=" in done.stderr


def test_a_python_that_lies_in_the_store_of_the_host(probe: Probe, store: Path) -> None:
    """All of it is out of view from the mounts on, when there may still be an error to tell."""
    script = """
    mkdir -p /nix
    mount -t tmpfs t /nix
    mkdir -p /nix/store/python /nix/store/project
    mount --bind "$BASE" /nix/store/python
    mount --bind "$SRC" /nix/store/project
    exec "$@"
    """
    if not Path("/nix").is_dir():
        pytest.skip("needs a /nix")
    private = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", script, "sh"]
    python = f"/nix/store/python/bin/python3.{sys.version_info.minor}"
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    environ = {
        "PATH": PATH,
        "BASE": sys.base_prefix,
        "SRC": str(Path(__file__).parents[2] / "src"),
        "PYTHONHOME": "/nix/store/python",
        "PYTHONPATH": f"/nix/store/project:{packages}",
    }
    command = [*private, python, "-m", "nixfetch.cli", "run", "--store", str(store)]
    for words, code, told in (
        ([probe.script, "x"], 0, f"{probe.script} x\n"),
        ([f"{probe.tool}/bin/nobody"], 127, "error: there is no such program: "),
        ([probe.broken], 126, "error: the program cannot be executed: "),
        ([probe.several], 125, "error: the store path has several programs: "),
        (["-vv", probe.nothing], 127, "NoProgramError"),
    ):
        done = subprocess.run(
            [*command, *map(str, words)], env=environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        assert told in done.stdout + done.stderr
        assert "ModuleNotFound" not in done.stderr


def test_it_costs_little_when_everything_is_there(root: Caller, probe: Probe) -> None:
    """A coarse bound; the figures are in the guide."""
    begin = time.monotonic()
    assert root(probe.tool, "true").code == 0
    assert time.monotonic() - begin < 20
