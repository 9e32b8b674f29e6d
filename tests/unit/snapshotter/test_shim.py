"""The stand-ins for what nix-snapshotter calls: command lines, places, links, what is printed."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import nixfetch
import snapshotter
from simulated_cache import KEY, Executable, SimulatedCache
from snapshotter.errors import InvalidArgumentError
from snapshotter.fragments import MARK
from snapshotter.shim import problems
from snapshotter.shim.commandline import (
    CommandLineError,
    Realise,
    Tell,
    parse_external_builder,
    parse_nix_store,
)
from snapshotter.shim.process import Process, external_builder, nix_store
from snapshotter.shim.programs import MAX_INTERPRETER, programs
from snapshotter.shim.realise import NotInStoreError, store_path, store_root

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

P = "/nix/store/0y5mfa1i7bvar5nanyafq43pj32axhyb-say-1.0"
Q = "/nix/store/9c93bry0vkmiadihi0zbdjwha8p9fhbn-nixfetch-demo-source"
NIX_STORE = "import sys; from snapshotter.shim import nix_store; sys.exit(nix_store())"
LIBRARY = str(Path(snapshotter.__file__).parents[1])


class TestCommandLineOfNixStore:
    @pytest.mark.parametrize(
        ("arguments", "asked"),
        [
            (["--add-root", "/r/1/x", "--realise", P], Realise((P,), "/r/1/x")),
            (["--realise", P], Realise((P,), None)),
            (["-r", P, Q], Realise((P, Q), None)),
            (["--realize", P, "--add-root", "r"], Realise((P,), "r")),
            ([P, "--realise"], Realise((P,), None)),
            (["--realise", P, "-r", Q], Realise((P, Q), None)),
            (["--add-root", "a", "--indirect", "-r", P], Realise((P,), "a")),
            (["--add-root", "a", "--add-root", "b", "-r", P], Realise((P,), "b")),
            (["--add-root", "", "--realise", P], Realise((P,), "")),
            (["--add-root", "--realise", P, "-r"], Realise((P,), "--realise")),
            (["--realise"], Realise((), None)),
            (["--version"], Tell("version")),
            (["--help"], Tell("help")),
        ],
    )
    def test_what_is_understood(self, arguments: list[str], asked: object) -> None:
        assert parse_nix_store(arguments) == asked

    @pytest.mark.parametrize(
        ("arguments", "problem"),
        [
            ([], "no operation specified"),
            ([P], "no operation specified"),
            (["--add-root", "x"], "no operation specified"),
            (["--realise", P, "--add-root"], "'--add-root' requires an argument"),
            (["--gc"], "unknown flag '--gc'"),
            (["--realise", "--query", P], "unknown flag '--query'"),
            (["--realise", "--dry-run", P], "unknown flag '--dry-run'"),
            (["--realise", "--", P], "unknown flag '--'"),
            (["--realise", "--add-root=x", P], "unknown flag '--add-root=x'"),
        ],
    )
    def test_what_is_not(self, arguments: list[str], problem: str) -> None:
        with pytest.raises(CommandLineError) as raised:
            parse_nix_store(arguments)
        assert raised.value.problem == problem
        assert "nix-store [--add-root LINK] --realise PATH" in str(raised.value.hint)


class TestCommandLineOfExternalBuilder:
    def test_what_is_understood(self) -> None:
        assert parse_external_builder(["/r/1/x", P]) == Realise((P,), "/r/1/x")
        assert parse_external_builder(["", P]) == Realise((P,), None)
        assert parse_external_builder(["--add-root", P]) == Realise((P,), "--add-root")
        assert parse_external_builder(["--version"]) == Tell("version")

    @pytest.mark.parametrize("arguments", [[], [P], ["a", P, Q], ["a", ""], ["", ""]])
    def test_what_is_not(self, arguments: list[str]) -> None:
        with pytest.raises(CommandLineError, match="two arguments are wanted"):
            parse_external_builder(arguments)


class TestStorePath:
    @pytest.mark.parametrize(
        "text", [P, f"{P}/", f"{P}/bin/say", f"/nix/store/x/..{P.removeprefix('/nix/store')}"]
    )
    def test_what_is_one(self, text: str) -> None:
        assert str(store_path(text)) == P

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("/etc", "path '/etc' is not in the Nix store"),
            ("", "is not in the Nix store"),
            ("/", "path '/' is not in the Nix store"),
            ("say", "is not in the Nix store"),
            ("/nix/store", "path '/nix/store' is not in the Nix store"),
            ("/nix/storeroom/x", "path '/nix/storeroom/x' is not in the Nix store"),
            (f"{P}/../../../etc", "path '/etc' is not in the Nix store"),
            (f"{P}/../..", "path '/nix' is not in the Nix store"),
            ("/nix/store/foo", "'foo' is not a valid store path"),
            (f"{P}\nx", "is not a valid store path"),
            (f"{P}.drv", "cannot build"),
        ],
    )
    def test_what_is_none(self, text: str, problem: str) -> None:
        with pytest.raises(NotInStoreError) as raised:
            store_path(text)
        assert problem in raised.value.problem


class TestStoreRoot:
    NOWHERE: Mapping[str, str] = {
        "HOME": "/nowhere",
        "XDG_CONFIG_DIRS": "/nowhere",
        "NIX_CONF_DIR": "/nowhere",
    }

    def test_the_own_one_of_the_machine_where_nothing_is_said(self) -> None:
        assert store_root(nixfetch.load_config({}, self.NOWHERE)) == "/"
        assert store_root(nixfetch.load_config({}, {**self.NOWHERE, "HOME": ""})) == "/"

    def test_the_one_that_a_variable_names(self) -> None:
        environ = {**self.NOWHERE, "NIXFETCH_STORE": "/srv/store"}
        assert store_root(nixfetch.load_config({}, environ)) == "/srv/store"

    def test_the_one_that_a_file_names(self, tmp_path: Path) -> None:
        (tmp_path / "config.toml").write_text('store = "/srv/store"\n')
        environ = {**self.NOWHERE, "NIXFETCH_CONFIG": str(tmp_path / "config.toml")}
        assert store_root(nixfetch.load_config({}, environ)) == "/srv/store"


class TestPrograms:
    def test_each_is_a_script_of_ours(self) -> None:
        found = programs("/opt/shim", python="/usr/bin/python3", library="/usr/lib/x y'z")
        assert [file.path for file in found] == [
            "/opt/shim/nix-store",
            "/opt/shim/external-builder",
        ]
        for file in found:
            first, second, *rest = file.text.splitlines()
            assert first == "#!/usr/bin/python3 -I"
            assert second == f"# {MARK}"
            ast.parse("\n".join(rest))
            assert file.mode == 0o755

    @pytest.mark.parametrize("name", ["x" * MAX_INTERPRETER, "a b'c\"$d"])
    def test_an_interpreter_that_the_kernel_would_not_find(self, tmp_path: Path, name: str) -> None:
        python = tmp_path / name
        python.symlink_to(sys.executable)
        file = programs(str(tmp_path), python=str(python), library=LIBRARY)[0]
        assert any(MARK in line for line in file.text.splitlines()[:4])
        script = tmp_path / "nix-store"
        script.write_text(file.text)
        script.chmod(0o755)
        # The link is outside of the environment that has our packages: the library is enough.
        done = subprocess.run([script, "a b", "--x"], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("error: unknown flag '--x'")

    @pytest.mark.parametrize("path", ["python3", "", "/usr/bin/py\nthon"])
    def test_a_path_that_no_script_can_name(self, path: str) -> None:
        with pytest.raises(InvalidArgumentError):
            programs("/opt/shim", python=path, library="/x")
        with pytest.raises(InvalidArgumentError):
            programs("/opt/shim", python="/usr/bin/python3", library=path)


@dataclass(frozen=True, slots=True)
class Ran:
    code: int
    out: list[str]
    err: str


class Machine:
    """A store and a cache in directories, and the stand-ins in this process."""

    def __init__(self, place: Path) -> None:
        self.place, self.root = place, place / "store"
        self.cache = SimulatedCache()
        self.environ = {
            "HOME": str(place),
            "XDG_CONFIG_DIRS": "/nowhere",
            "NIX_CONF_DIR": "/nowhere",
            "NIXFETCH_STORE": str(self.root),
            "NIXFETCH_FROM": f"file://{place}/cache",
            "NIXFETCH_TRUSTED_KEYS": str(KEY.public()),
        }

    def __call__(
        self, *arguments: object, program: Callable[[Process], int] = nix_store, **environ: str
    ) -> Ran:
        self.cache.dump(self.place / "cache")
        out, err = io.StringIO(), io.StringIO()
        process = Process(list(map(str, arguments)), {**self.environ, **environ}, out, err)
        code = program(process)
        return Ran(code, out.getvalue().splitlines(), err.getvalue())

    def roots(self) -> dict[str, str]:
        """What the links keep, as the collector sees them."""
        with nixfetch.LocalStore(self.root, read_only=True) as store:
            found = nixfetch.Roots(store).list()
        return {root.name: root.path.name for root in found if root.path is not None}

    def valid(self) -> list[str]:
        with nixfetch.LocalStore(self.root, read_only=True) as store:
            return sorted(path.name for path in store.all_valid())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


class TestRealise:
    def test_a_path_and_what_it_refers_to_are_kept_by_a_link(self, machine: Machine) -> None:
        app = machine.cache.add("app", references=[machine.cache.add("lib")])
        link = machine.place / "gcroots/12" / app.base
        ran = machine("--add-root", link, "--realise", app)
        assert (ran.code, ran.out) == (0, [str(link)])
        assert ran.err.count("copying path ") == 2
        assert str(link.readlink()) == str(app)
        assert machine.roots() == {str(link): "app"}
        assert machine.valid() == ["app", "lib"]

    def test_a_second_time_nothing_is_asked_of_the_caches(self, machine: Machine) -> None:
        app = machine.cache.add("app", references=[machine.cache.add("lib")])
        machine("--add-root", machine.place / "one", "--realise", app)
        ran = machine(
            "--add-root", machine.place / "two", "--realise", app, NIXFETCH_FROM="file:///nowhere"
        )
        assert ran == Ran(0, [str(machine.place / "two")], "")
        assert machine.roots() == {str(machine.place / "one"): "app", f"{machine.place}/two": "app"}

    def test_without_a_link_the_path_is_printed_and_a_warning(self, machine: Machine) -> None:
        app = machine.cache.add("app")
        ran = machine("--realise", app)
        assert (ran.code, ran.out) == (0, [str(app)])
        assert "you did not specify '--add-root'" in ran.err
        assert machine.roots() == {}

    def test_several_paths_have_numbered_links(self, machine: Machine) -> None:
        one, two = machine.cache.add("one"), machine.cache.add("two")
        ran = machine("--add-root", machine.place / "r", "--realise", one, two, one)
        links = [str(machine.place / name) for name in ("r", "r-2", "r-3")]
        assert (ran.code, ran.out) == (0, links)
        assert machine.roots() == dict(zip(links, ("one", "two", "one"), strict=True))

    def test_a_link_into_the_store_is_replaced(self, machine: Machine) -> None:
        one, two = machine.cache.add("one"), machine.cache.add("two")
        link = machine.place / "r"
        machine("--add-root", link, "--realise", one)
        assert machine("--add-root", link, "--realise", two).code == 0
        assert machine.roots() == {str(link): "two"}

    def test_no_paths_are_no_work(self, machine: Machine) -> None:
        assert machine("--realise", "--add-root", machine.place / "r") == Ran(0, [], "")
        assert not machine.root.exists()

    def test_the_external_builder_keeps_what_it_is_given_a_link_for(self, machine: Machine) -> None:
        one, two = machine.cache.add("one"), machine.cache.add("two")
        link = machine.place / "gcroots/1/one"
        assert machine(link, one, program=external_builder).out == []
        ran = machine("", two, program=external_builder)
        assert (ran.code, ran.out) == (0, [])
        assert "--add-root" not in ran.err
        assert machine.roots() == {str(link): "one"}
        assert machine.valid() == ["one", "two"]


class TestFailures:
    def test_what_no_cache_has(self, machine: Machine) -> None:
        one, path = machine.cache.add("one"), SimulatedCache().add("missing")
        ran = machine("--add-root", machine.place / "deep/r", "--realise", one, path)
        assert (ran.code, ran.out) == (1, [])
        assert f"error: path '{path}' is required, but there is no substituter that" in ran.err
        assert f"file://{machine.place}/cache" in ran.err
        assert not (machine.place / "deep").exists()
        assert machine.roots() == {}

    def test_what_is_not_to_be_believed(self, machine: Machine) -> None:
        app = machine.cache.add("app", references=[machine.cache.add("lib")])
        ran = machine("--add-root", machine.place / "r", "--realise", app, NIXFETCH_TRUSTED_KEYS="")
        assert ran.code == 1
        assert "signed by no trusted key" in ran.err
        # What to do about it is told in flags of `nixfetch`.
        assert "--trusted-key" in ran.err
        assert ran.err.endswith("/etc/nixfetch/config.toml, and variables NIXFETCH_…\n")
        assert machine.roots() == {}
        assert machine.valid() == []

    def test_what_is_damaged(self, machine: Machine) -> None:
        lib = machine.cache.add("lib", {b"bin": Executable(b"x" * 1000)})
        app = machine.cache.add("app", references=[lib])
        name = machine.cache.nar_name(lib)
        data = bytearray(machine.cache.objects[name])
        data[len(data) // 2] ^= 1
        machine.cache.objects[name] = bytes(data)
        ran = machine("--add-root", machine.place / "r", "--realise", app)
        assert ran.code == 1
        assert f"error: path '{app}' is required" in ran.err
        assert str(lib) in ran.err  # the one that it is about
        assert machine.valid() == []

    def test_settings_that_make_no_sense(self, machine: Machine) -> None:
        ran = machine("--realise", machine.cache.add("app"), NIXFETCH_FROM="nonsense")
        assert ran.code == 1
        assert "NIXFETCH_FROM" in ran.err

    @pytest.mark.parametrize("kind", ["file", "directory", "link elsewhere", "dangling link"])
    def test_something_in_the_place_of_the_link(self, machine: Machine, kind: str) -> None:
        app = machine.cache.add("app")
        link = machine.place / "r"
        match kind:
            case "file":
                link.write_text("mine")
            case "directory":
                link.mkdir()
            case "link elsewhere":
                link.symlink_to("/etc")
            case _:
                link.symlink_to("nowhere")
        before = link.lstat()
        ran = machine("--add-root", link, "--realise", app)
        assert (ran.code, ran.out) == (1, [])
        assert ran.err == f"error: cannot create symlink '{link}'; already exists\n"
        after = link.lstat()  # looking at a link may change when it was last looked at
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
        assert not machine.root.exists()  # nothing was fetched for it

    def test_a_directory_that_cannot_be_made(self, machine: Machine) -> None:
        app = machine.cache.add("app")
        (machine.place / "file").write_text("")
        ran = machine("--add-root", machine.place / "file/deep/r", "--realise", app)
        assert ran.code == 1
        assert ran.err == f"error: creating directory '{machine.place}/file': Not a directory\n"

    def test_links_that_were_made_by_then_are_undone(self, machine: Machine) -> None:
        one, two = machine.cache.add("one"), machine.cache.add("two")
        long = "r" * 254  # the second one's name is too long for any file system
        ran = machine("--add-root", machine.place / "deep/er" / long, "--realise", one, two)
        assert ran.code == 1
        assert "too long" in ran.err
        assert not (machine.place / "deep").exists()
        assert machine.roots() == {}

    def test_a_link_that_was_there_before_stays(self, machine: Machine) -> None:
        one, two = machine.cache.add("one"), machine.cache.add("two")
        link = machine.place / ("r" * 254)
        assert machine("--add-root", link, "--realise", one).code == 0
        assert machine("--add-root", link, "--realise", one, two).code == 1
        assert machine.roots() == {str(link): "one"}

    def test_a_link_in_the_store(self, machine: Machine) -> None:
        ran = machine(
            "--add-root", machine.root / "nix/store/r", "--realise", machine.cache.add("app")
        )
        assert ran.code == 1
        assert "a root cannot be made in the store" in ran.err

    def test_what_is_valid_and_not_on_the_disk(self, machine: Machine) -> None:
        lib = machine.cache.add("lib")
        app = machine.cache.add("app", references=[lib])
        machine("--realise", app)
        (machine.root / str(lib).lstrip("/")).unlink()
        ran = machine("--add-root", machine.place / "r", "--realise", app)
        assert ran.code == 1
        assert str(lib) in ran.err
        assert machine.roots() == {}


class TestProblems:
    def test_no_more_reasons_than_a_log_wants(self, machine: Machine) -> None:
        libs = [machine.cache.add(f"lib-{number}") for number in range(30)]
        app = machine.cache.add("app", references=libs)
        for lib in libs:
            del machine.cache.objects[machine.cache.nar_name(lib)]
        ran = machine("--realise", app)
        assert ran.code == 1
        assert len(ran.err.splitlines()) < 60
        assert f"  and {30 - problems.MAX_REASONS} more" in ran.err

    def test_what_a_terminal_would_act_on_is_escaped(self) -> None:
        error = nixfetch.NixfetchError("bad\x1b[2J", path="\x1b]0;x\x07", keys=["a\nb", "c"])
        assert list(problems.lines(error)) == [
            'error: "bad\\u001b[2J" (path "\\u001b]0;x\\u0007", keys "a\\nb" c)'
        ]


class TestProcess:
    def test_help_and_version(self, machine: Machine) -> None:
        assert machine("--help").out[0].startswith("Usage: nix-store [--add-root LINK] --realise")
        assert machine("--version").out[0].startswith("nix-store (nixfetch) ")
        ran = machine("--version", program=external_builder)
        assert ran.out[0].startswith("external-builder (nixfetch) ")

    def test_a_bug_is_one_line(self) -> None:
        err = io.StringIO()
        assert nix_store(Process(["--help"], {}, _Broken(RuntimeError("broken")), err)) == 1
        assert err.getvalue() == "error: a bug of nixfetch: RuntimeError: broken\n"

    def test_ctrl_c_is_no_traceback(self) -> None:
        err = io.StringIO()
        assert nix_store(Process(["--help"], {}, _Broken(KeyboardInterrupt()), err)) == 1
        assert err.getvalue() == "error: interrupted by the user\n"

    @pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
    def test_a_link_that_is_no_text(self, machine: Machine, locale: str) -> None:
        app = machine.cache.add("app")
        machine("--realise", app)
        link = os.fsencode(machine.place) + b"/\xff \xc3\xa9"
        done = subprocess.run(
            [sys.executable, "-c", NIX_STORE, "--add-root", link, "--realise", str(app)],
            env={**machine.environ, "PYTHONPATH": LIBRARY, "LC_ALL": locale},
            capture_output=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, link + b"\n", b"")
        assert str(Path(os.fsdecode(link)).readlink()) == str(app)

    def test_what_is_valid_is_found_with_little_loaded(self, machine: Machine) -> None:
        """100 paths are 100 processes; what fetches is not loaded for what is there."""
        app = machine.cache.add("app")
        machine("--realise", app)
        code = (
            "import sys; from snapshotter.shim import nix_store; code = nix_store();"
            " print(*sys.modules, file=sys.stderr); sys.exit(code)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, "--add-root", machine.place / "r", "--realise", str(app)],
            env={**machine.environ, "PYTHONPATH": LIBRARY},
            capture_output=True,
            text=True,
            check=True,
        )
        loaded = set(done.stderr.split())
        for heavy in ("httpx", "boto3", "cryptography", "grpc", "nixfetch.fetch", "asyncio"):
            assert heavy not in loaded
        assert not [name for name in loaded if name.startswith("nixfetch.transport.")]


class _Broken(io.StringIO):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self._error = error

    def write(self, _text: str) -> int:
        raise self._error
