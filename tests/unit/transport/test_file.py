from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from nixfetch.errors import TransportError
from nixfetch.transport import NotFoundError, Range
from nixfetch.transport.file import FileTransport


def read(root: Path, name: str) -> bytes:
    with FileTransport(root).open(name) as body:
        return b"".join(body.chunks)


def refusal(root: Path, name: str) -> TransportError:
    with pytest.raises(TransportError) as caught:
        read(root, name)
    return caught.value


def test_a_directory_is_no_object(tmp_path: Path) -> None:
    (tmp_path / "nar").mkdir()
    assert refusal(tmp_path, "nar").problem == "not a regular file"


def test_a_fifo_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert refusal(tmp_path, "fifo").problem == "not a regular file"


def test_a_socket_is_no_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # socket names are short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        assert refusal(tmp_path, "socket").problem == "not a regular file"


def test_links_are_followed(tmp_path: Path) -> None:
    pool, cache = tmp_path / "pool", tmp_path / "cache"
    pool.mkdir()
    (pool / "x").write_bytes(b"data")
    cache.mkdir()
    (cache / "x").symlink_to(pool / "x")
    (tmp_path / "link").symlink_to(cache)
    assert read(tmp_path / "link", "x") == b"data"


def test_links_to_nowhere_and_to_themselves(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    assert isinstance(refusal(tmp_path, "dangling"), NotFoundError)
    assert refusal(tmp_path, "loop").facts["reason"] == "too many levels of symbolic links"


def test_a_missing_cache_is_not_a_missing_object(tmp_path: Path) -> None:
    error = refusal(tmp_path / "none", "nix-cache-info")
    assert error.problem == "no such directory"
    assert error.facts["path"] == str(tmp_path / "none")
    assert not isinstance(error, NotFoundError)
    assert error.facts["url"] == f"{(tmp_path / 'none').as_uri()}/nix-cache-info"


def test_files_below_files_and_long_names_are_not_found(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"data")
    assert isinstance(refusal(tmp_path, "x/y"), NotFoundError)
    assert isinstance(refusal(tmp_path, "y" * 300), NotFoundError)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    (Path(os.fsdecode(tmp_path)) / os.fsdecode(b"\xff")).write_bytes(b"data")
    assert read(tmp_path, "%ff") == b"data"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files_are_not_missing(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"data")
    (tmp_path / "x").chmod(0)
    error = refusal(tmp_path, "x")
    assert not isinstance(error, NotFoundError)
    assert error.facts["reason"] == "permission denied"


def test_growth_while_reading_is_not_seen(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"data")
    with FileTransport(tmp_path).open("x") as body, path.open("ab") as file:
        file.write(b"more")
        file.flush()
        assert b"".join(body.chunks) == b"data"


def test_a_replaced_file_is_another_version(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"data")
    os.utime(path, ns=(1, 1))
    with FileTransport(tmp_path).open("x") as body:
        assert body.validator == "1-4"
    os.utime(path, ns=(2, 2))
    with FileTransport(tmp_path).open("x", Range(start=1, validator="1-4")) as body:
        assert (body.start, body.validator) == (0, "2-4")


def test_a_relative_root_stays_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").write_bytes(b"data")
    monkeypatch.chdir(tmp_path)
    transport = FileTransport(Path())
    monkeypatch.chdir("/")
    assert transport.url == tmp_path.as_uri()
    with transport.open("x") as body:
        assert b"".join(body.chunks) == b"data"
