"""The NAR grammar, folded into fixed tokens.

    archive ::= MAGIC node
    node    ::= DIRECTORY entry* CLOSE
              | (REGULAR | EXECUTABLE) string CLOSE
              | SYMLINK string CLOSE
    entry   ::= ENTRY string NODE node CLOSE

A string is its length (u64, little endian), its bytes, and zeros up to a multiple of 8.
Folding neighbouring keywords into one token leaves one comparison where the
textbook grammar has four. Source: tvix, nix-compat/src/nar/wire/mod.rs (the idea).
"""

from __future__ import annotations

LENGTH = 8  # bytes of a length field
MAX_NAME = 255  # bytes; NAME_MAX on Linux
MAX_TARGET = 4095  # bytes; PATH_MAX less its terminator
MAX_DEPTH = 64  # levels of nodes, the root included; as Nix since 2.34


def padding(size: int) -> int:
    """Zero bytes after `size` bytes: 0 to 7."""
    return -size % 8


def string(data: bytes) -> bytes:
    """`data` as it stands in a NAR."""
    return len(data).to_bytes(LENGTH, "little") + data + bytes(padding(len(data)))


def _token(*words: str) -> bytes:
    return b"".join(string(word.encode()) for word in words)


MAGIC = _token("nix-archive-1")
NODE = _token("node")
CLOSE = _token(")")
ENTRY = _token("entry", "(", "name")
DIRECTORY = _token("(", "type", "directory")
REGULAR = _token("(", "type", "regular", "contents")
EXECUTABLE = _token("(", "type", "regular", "executable", "", "contents")
SYMLINK = _token("(", "type", "symlink", "target")
