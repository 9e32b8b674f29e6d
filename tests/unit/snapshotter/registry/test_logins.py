from __future__ import annotations

import base64
import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

import nixfetch
from snapshotter.registry.logins import Identity, LoginError, Logins, run_helper

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "hunter2"


def auth(user: str = "u", password: str = SECRET) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def load(tmp_path: Path, document: Any) -> Logins:
    file = tmp_path / "config.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return Logins.load(file)


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("q.io", "q.io"),
        ("https://q.io", "q.io"),
        ("https://q.io/v2/", "q.io"),
        ("http://localhost:5000/v1/", "localhost:5000"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("index.docker.io", "docker.io"),
        ("docker.io", "registry-1.docker.io"),
    ],
)
def test_hosts_by_all_their_names(key: str, host: str, tmp_path: Path) -> None:
    found = load(tmp_path, {"auths": {key: {"auth": auth()}}})
    assert found.find(host) == nixfetch.Basic("u", SECRET)
    assert found.find("other.test") is None


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"auth": auth("u", "a:b")}, nixfetch.Basic("u", "a:b")),
        ({"auth": auth(), "identitytoken": "i"}, Identity("i")),
        ({"registrytoken": "r"}, nixfetch.Bearer("r")),
        ({"username": "u", "password": "p"}, nixfetch.Basic("u", "p")),
        ({}, None),
        ({"auth": ""}, None),
    ],
)
def test_forms_of_a_login(entry: Any, expected: object, tmp_path: Path) -> None:
    assert load(tmp_path, {"auths": {"q.io": entry}}).find("q.io") == expected


def test_no_file_no_logins(tmp_path: Path) -> None:
    assert Logins.load(tmp_path / "none").find("q.io") is None
    assert load(tmp_path, {}).find("q.io") is None
    assert load(tmp_path, {"auths": None, "credsStore": None, "HttpHeaders": 7}).find("x") is None


@pytest.mark.parametrize(
    "document",
    [SECRET, f'{{"auths": "{SECRET}"}}', '{"auths": {"q.io": 7}}', '{"credHelpers": {"q.io": 7}}'],
)
def test_malformed_files(document: str, tmp_path: Path) -> None:
    with pytest.raises(LoginError, match="malformed logins") as caught:
        load(tmp_path, document)
    assert caught.value.facts.keys() <= {"file", "place"}
    assert SECRET not in f"{caught.value.facts.get('place')} {caught.value.__cause__!r}"


@pytest.mark.parametrize(
    "entry", [{"auth": "!"}, {"auth": base64.b64encode(SECRET.encode()).decode()}, {"auth": 7}]
)
def test_malformed_logins(entry: Any, tmp_path: Path) -> None:
    with pytest.raises(LoginError, match="malformed login") as caught:
        load(tmp_path, {"auths": {"q.io": entry}}).find("q.io")
    assert SECRET not in str(caught.value)
    assert caught.value.facts["host"] == "q.io"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(LoginError, match="cannot read the logins"):
        Logins.load(tmp_path)


def test_nothing_shows_a_secret(tmp_path: Path) -> None:
    found = load(tmp_path, {"auths": {"q.io": {"auth": auth()}}})
    assert SECRET not in repr(found)
    assert auth() not in repr(found)
    assert SECRET not in repr(found.find("q.io"))
    assert SECRET not in repr(Identity(SECRET))


# Programs.


def answering(**answers: bytes | None) -> Any:
    def run(name: str, server: str) -> bytes | None:
        return answers[f"{name}_{server}".replace(".", "_").replace(":", "_").replace("/", "_")]

    return run


def login(user: str) -> bytes:
    return json.dumps({"ServerURL": "x", "Username": user, "Secret": SECRET}).encode()


def test_programs_are_asked_before_the_file() -> None:
    found = Logins(
        auths={"q.io": {"auth": auth("file")}, "r.io": {"auth": auth("file")}},
        helpers={"s.io": "aws"},
        store="desktop",
        run=answering(
            desktop_q_io=login("<token>"),
            desktop_r_io=None,
            aws_s_io=login("AWS"),
            desktop_https___index_docker_io_v1_=login("hub"),
        ),
    )
    assert found.find("q.io") == Identity(SECRET)
    assert found.find("r.io") == nixfetch.Basic("file", SECRET)
    assert found.find("s.io") == nixfetch.Basic("AWS", SECRET)
    assert found.find("docker.io") == nixfetch.Basic("hub", SECRET)


@pytest.mark.parametrize("output", [b"", SECRET.encode(), b"{}", b'{"Secret": 7}'])
def test_a_program_that_answers_nonsense(output: bytes) -> None:
    found = Logins(store="x", run=answering(x_q_io=output))
    with pytest.raises(LoginError, match="answers in another way") as caught:
        found.find("q.io")
    assert SECRET not in f"{caught.value} {caught.value.__cause__!r}"


def asked(folder: Path, script: str, **more: float) -> bytes | None:
    """What a program of that text makes of it."""
    program = folder / "docker-credential-mine"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return run_helper("mine", "q.io", path=str(folder), **more)


def test_a_real_program(tmp_path: Path) -> None:
    script = 'read server; echo "{\\"Username\\": \\"$server\\", \\"Secret\\": \\"$1\\"}"'
    assert asked(tmp_path, script) == b'{"Username": "q.io", "Secret": "get"}\n'
    assert Logins(store="mine", run=partial(run_helper, path=str(tmp_path))).find(
        "q.io"
    ) == nixfetch.Basic("q.io", "get")


def test_a_program_that_knows_nothing(tmp_path: Path) -> None:
    assert asked(tmp_path, "echo credentials not found in native keychain; exit 1") is None


def test_a_program_that_fails(tmp_path: Path) -> None:
    with pytest.raises(LoginError, match="program for logins fails") as caught:
        asked(tmp_path, f"echo {SECRET}; echo {SECRET} >&2; exit 3")
    assert caught.value.facts == {"helper": "docker-credential-mine", "status": 3}


def test_a_program_that_never_ends(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(LoginError, match="takes too long"):
        asked(tmp_path, "exec sleep 60", timeout=0.2)
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("name", ["none-such", "../x", "a/b", "", "-x", "a\n"])
def test_programs_that_are_not_run(name: str) -> None:
    with pytest.raises(LoginError):
        run_helper(name, "q.io")
