"""A process that sees a closure at /nix/store: namespaces of its own, mounts in them, a program.

Knows the kernel and a store's disk; nothing of caches. All of it is for a process that is about
to become another program, as in

    show_closure(present_closure([path], store), store=store.layout.store)
    execute(find_program(path), [], environ)

and none of it can be taken back: whoever has more to do forks first.
"""

from __future__ import annotations

from nixfetch.namespace.own import NamespaceError
from nixfetch.namespace.program import (
    NoProgramError,
    ProgramError,
    SeveralProgramsError,
    execute,
    find_program,
)
from nixfetch.namespace.view import NotExecutableError, ViewError, show_closure

__all__ = (
    "NamespaceError",
    "NoProgramError",
    "NotExecutableError",
    "ProgramError",
    "SeveralProgramsError",
    "ViewError",
    "execute",
    "find_program",
    "show_closure",
)
