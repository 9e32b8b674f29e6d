"""What an image may say where a store path belongs: host paths, parts of paths, options, noise."""

from __future__ import annotations

from simulated_cache import store_path

HASH = store_path("a").hash_part
"""Of a path that there is."""
EVIL = [
    "",
    "/",
    "/etc",
    "/etc/shadow",
    "/nix",
    "/nix/store",
    "/nix/store/",
    "/nix/store/.links",
    "/nix/store/..",
    "/nix/store/../../etc",
    f"/nix/store/{HASH}-a/../../../etc",
    f"/nix/store/{HASH}-a/bin",
    f"/nix/store/{HASH}-a/",
    f"/nix/store//{HASH}-a",
    f"//nix/store/{HASH}-a",
    f"/nix/store/./{HASH}-a",
    f"/nix/store/{HASH}-..",
    f"/nix/store/{HASH}-.",
    f"/nix/store/{HASH}-",
    f"/nix/store/{HASH}",
    f"/nix/store/{HASH}-a\n",
    f"/nix/store/{HASH}-a\n/etc",
    f"\n/nix/store/{HASH}-a",
    f" /nix/store/{HASH}-a",
    f"/nix/store/{HASH}-a ",
    f"/nix/store/{HASH}-a\0",
    f"/nix/store/{HASH}-a,upperdir=/etc",
    f"/nix/store/{HASH}-a:/etc",
    f"/nix/store/{HASH}-\u00e4",
    f"/nix/store/{HASH.upper()}-a",
    f"/nix/store/{'e' * 32}-a",
    f"/other/store/{HASH}-a",
    f"{HASH}-a",
    f"nix/store/{HASH}-a",
    "--option",
    "-r",
    f"--add-root /nix/store/{HASH}-a",
    f"/nix/store/{HASH}-{'x' * 212}",
    "x" * 5000,
    "/nix/store/" + "a" * 5000,
]
"""None of them may ever be mounted, or be given to a program."""
