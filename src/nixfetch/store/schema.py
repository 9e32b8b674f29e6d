"""The tables of a store's database, and the file beside it that says which version they are.

Source: nix, src/libstore/schema.sql.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nixfetch.errors import StoreError
from nixfetch.store.disk import disk_errors, is_there
from nixfetch.store.refusals import REBUILD, DatabaseError

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA_VERSION = "10"
SCHEMA = """
create table if not exists ValidPaths (
    id               integer primary key autoincrement not null,
    path             text unique not null,
    hash             text not null, -- base16 representation
    registrationTime integer not null,
    deriver          text,
    narSize          integer,
    ultimate         integer, -- null implies "false"
    sigs             text, -- space-separated
    ca               text -- if not null, an assertion that the path is content-addressed
);
create table if not exists Refs (
    referrer  integer not null,
    reference integer not null,
    primary key (referrer, reference),
    foreign key (referrer) references ValidPaths(id) on delete cascade,
    foreign key (reference) references ValidPaths(id) on delete restrict
);
create index if not exists IndexReferrer on Refs(referrer);
create index if not exists IndexReference on Refs(reference);
-- Paths can refer to themselves, causing a tuple (N, N) in the Refs table. This would
-- forbid to delete such a path, so the tuple goes first.
create trigger if not exists DeleteSelfRefs before delete on ValidPaths
  begin
    delete from Refs where referrer = old.id and reference = old.id;
  end;
create table if not exists DerivationOutputs (
    drv  integer not null,
    id   text not null, -- symbolic output id, usually "out"
    path text not null,
    primary key (drv, id),
    foreign key (drv) references ValidPaths(id) on delete cascade
);
create index if not exists IndexDerivationOutputs on DerivationOutputs(path);
create table if not exists SchemaMigrations (
    migration text primary key not null
);
"""


class SchemaError(StoreError):
    """The database is of a version that we do not know."""


def check_schema(directory: Path) -> None:
    """Look whether we know the version that is named beside the database.

    Raises:
        SchemaError: we do not.
        DatabaseError: it cannot be read.
    """
    try:
        version = (directory / "schema").read_text("ascii", "replace").strip()
    except FileNotFoundError:
        return
    except OSError as error:
        raise DatabaseError(
            "the store's database cannot be read", file=str(directory), reason=str(error.strerror)
        ) from error
    if version and version != SCHEMA_VERSION:
        upgrade = "an older one: let Nix upgrade it; a newer one: upgrade nixfetch"
        raise SchemaError(
            "the store's database is of another version",
            hint=upgrade if version.isdecimal() else REBUILD,
            file=str(directory / "schema"),
            version=version[:20],
            known=SCHEMA_VERSION,
        )


def write_schema(directory: Path) -> None:
    """Name the version, whole or not at all; after the tables, so that it never lies.

    Raises:
        DiskError: it cannot be written.
    """
    file = directory / "schema"
    fresh = file.with_name(f"schema.{os.getpid()}")
    with disk_errors(file):
        if is_there(file) and file.stat().st_size:
            return
        try:
            fresh.write_text(SCHEMA_VERSION)
            fresh.replace(file)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
