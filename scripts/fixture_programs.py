"""Links the programs of the fixtures.

Knows the compiler; knows nothing of Nix but the shape of a store path.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

COMPILE = (
    *("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"),
    *("-ffreestanding", "-nostdlib", "-fno-builtin", "-fno-tree-loop-distribute-patterns"),
    *("-fno-ident", "-fvisibility=hidden", "-fno-stack-protector", "-fcf-protection=none"),
    *("-fno-asynchronous-unwind-tables", "-fno-unwind-tables"),
    "-Wl,--hash-style=sysv",  # the loader finds symbols by DT_HASH
    "-Wl,-z,now,-z,norelro,-z,noseparate-code,-z,max-page-size=4096",  # small; no lazy binding
    "-Wl,--build-id=none,--strip-all,--no-undefined,--enable-new-dtags",
)


def placeholder(package: str) -> str:
    """Stands for the store path of a package until Nix knows it; of the same length."""
    return f"/nix/store/{'#' * 32}-{package}"


def link_programs(sources: Path, to: Path) -> None:
    """Links say, ld-tiny.so, libtiny.so, libgreet.so and greet of `sources` into `to`."""
    libc, libgreet = placeholder("tiny-libc-1.0"), placeholder("libgreet-1.0")
    shared = ("-fPIC", "-shared", "-fvisibility=default")

    def link(output: str, source: str, *arguments: str) -> None:
        command = ["gcc", *COMPILE, str(sources / source), *arguments, "-o", output]
        subprocess.run(command, cwd=to, check=True)

    to.mkdir()
    link("say", "say.c", "-fno-pie", "-no-pie", "-static")
    link("ld-tiny.so", "ld-tiny.c", "-fPIE", "-static-pie", "-Wl,--no-dynamic-linker")
    link("libtiny.so", "libtiny.c", *shared, "-Wl,-soname,libtiny.so")
    runpath = f"-Wl,-rpath,{libc}/lib"
    link("libgreet.so", "libgreet.c", "libtiny.so", *shared, "-Wl,-soname,libgreet.so", runpath)
    link(
        "greet",
        "greet.c",
        *("libgreet.so", "libtiny.so", "-fPIE", "-pie", f'-DPREFIX="{placeholder("greet-1.0")}"'),
        f"-Wl,-dynamic-linker,{libc}/lib/ld-tiny.so,-rpath,{libgreet}/lib:{libc}/lib",
    )
    relocations = subprocess.run(
        ["readelf", "--relocs", "ld-tiny.so"], cwd=to, check=True, capture_output=True, text=True
    ).stdout
    if "There are no relocations" not in relocations:
        sys.exit(f"the loader cannot relocate itself:\n{relocations}")
