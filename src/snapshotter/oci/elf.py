"""For which machine a program is: the first 20 bytes of an ELF file. Knows no files."""

from __future__ import annotations

from snapshotter.oci.model import Platform

HEAD = 20  # bytes that are looked at
_MAGIC = b"\x7fELF"
_LITTLE = 1
_MACHINES = {
    (3, 1, 1): "386",
    (62, 2, 1): "amd64",
    (62, 1, 1): "amd64",  # x32
    (40, 1, 1): "arm",
    (183, 2, 1): "arm64",
    (243, 2, 1): "riscv64",
    (21, 2, 1): "ppc64le",
    (21, 2, 2): "ppc64",
    (22, 2, 2): "s390x",
    (258, 2, 1): "loong64",
    (8, 1, 1): "mipsle",
    (8, 1, 2): "mips",
    (8, 2, 1): "mips64le",
    (8, 2, 2): "mips64",
}
"""By e_machine, class (1: 32 bits, 2: 64) and byte order (1: little, 2: big): Go's name."""


def platform(head: bytes) -> Platform | None:
    """What runs a program.

    Args:
        head: its first `HEAD` bytes, or all there are.

    Returns:
        None where it is no ELF file, or one for a machine that no image is for.

    Source: elf(5), Elf64_Ehdr.
    """
    if len(head) < HEAD or not head.startswith(_MAGIC):
        return None
    machine = int.from_bytes(head[18:20], "little" if head[5] == _LITTLE else "big")
    name = _MACHINES.get((machine, head[4], head[5]))
    return None if name is None else Platform("linux", name)
