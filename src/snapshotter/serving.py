"""`nixfetch-snapshotter serve`: the daemon that containerd calls.

Settings are those of the flags, else of --config FILE (TOML; the same names, with dashes), else
of /etc/nixfetch/snapshotter.toml where that exists. Whom to fetch from and whom to trust are
settings of `nixfetch`: its flags --from and --trusted-key, its variables, its files
(/etc/nixfetch/config.toml, or the one that NIXFETCH_CONFIG names; nix.conf).

It ends with SIGTERM or SIGINT, within ten seconds. Containers that run need nothing of it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import nixfetch
from snapshotter import config
from snapshotter.memory import have_few_arenas

if TYPE_CHECKING:
    import argparse

    from snapshotter.fetching import Source

SUMMARY = "the daemon that containerd calls"

CONFIG = Path("/etc/nixfetch/snapshotter.toml")
"""Read where it exists, and no other is named."""
ENDS = (signal.SIGTERM, signal.SIGINT)
"""The signals that end it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = config.Settings()
    parser.add_argument("--root", metavar="DIR", help=f"snapshots (default: {defaults.root})")
    parser.add_argument(
        "--address", metavar="SOCKET", help=f"where to listen (default: {defaults.address})"
    )
    parser.add_argument("--store", metavar="ROOT", help=f"the store (default: {defaults.store})")
    parser.add_argument("--config", metavar="FILE", type=Path, help="settings, in TOML")
    parser.add_argument(
        "--from", metavar="URL", action="append", help="a binary cache; may be repeated"
    )
    parser.add_argument(
        "--trusted-key", metavar="NAME:BASE64", action="append", help="adds to the trusted keys"
    )
    parser.add_argument(
        "--containerd-address",
        metavar="SOCKET",
        help="containerd's own socket, to ask for its version"
        f" (default: {defaults.containerd_address}; an empty one is none)",
    )
    parser.add_argument(
        "--mount-mode",
        choices=get_args(config.MountMode),
        help="how containers get store paths: binds with a target, the first lower layer, or what"
        f" containerd can do (default: {defaults.mount_mode})",
    )
    parser.add_argument(
        "--max-binds",
        metavar="N",
        type=int,
        help="closures of more paths are a lower layer in any mode"
        f" (default: {defaults.max_binds})",
    )
    parser.add_argument(
        "--metrics-address",
        metavar="ADDRESS",
        help="metrics for Prometheus: 127.0.0.1:PORT or unix:/PATH (default: none)",
    )
    parser.add_argument("--log-format", choices=get_args(config.LogFormat))
    parser.add_argument("--log-level", choices=get_args(config.LogLevel))


def run(args: argparse.Namespace) -> int:
    from snapshotter import server

    file = args.config or (CONFIG if CONFIG.exists() else None)
    flags = {name: getattr(args, name, None) for name in config.NAMES}
    flags["store"] = flags["store"] or os.environ.get("NIXFETCH_STORE") or None
    settings = config.load(flags, file)
    _log_to_stderr(settings)
    # Blocked in all threads, and waited for: a handler might never get its turn while the main
    # thread waits for a lock.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    have_few_arenas()
    os.umask(0o022)  # what we make in layers is for containers to see
    server.serve(
        settings,
        source=_source(settings, args),
        environ=os.environ,
        wait=lambda: signal.sigwait(ENDS),
    )
    if threading.active_count() > 1:
        # Some wait for caches, or were cut off. The interpreter would wait for them.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)
    return 0


def _source(settings: config.Settings, args: argparse.Namespace) -> Source:
    """Where store paths come from, as the settings of `nixfetch` say."""
    from snapshotter.fetching import Source

    flags = {
        "store": str(settings.store),
        "from": getattr(args, "from"),
        "trusted_key": args.trusted_key,
    }
    # What caches said is remembered with the snapshots: services often have no home.
    environ = {"XDG_CACHE_HOME": str(settings.root / "cache"), **os.environ}
    found = nixfetch.load_config(flags, environ)
    for note in found.skipped:
        logging.getLogger(__name__).warning("%s", note)
    return Source(
        open_caches=lambda refresh: nixfetch.open_configured(
            replace(found, refresh=refresh or found.refresh), environ
        ),
        policy=nixfetch.policy_of(found),
        jobs=found.jobs,
    )


def _log_to_stderr(settings: config.Settings) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if settings.log_format == "json" else _Text())
    for name in ("nixfetch", "snapshotter"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(settings.log_level.upper())
        logger.propagate = False


class _Text(logging.Formatter):
    """One line a message; the time is what systemd has anyway."""

    def format(self, record: logging.LogRecord) -> str:
        text = f"{record.levelname.lower()}: {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class _Json(logging.Formatter):
    """One document a message."""

    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "thread": record.threadName,
            "message": record.getMessage(),
        }
        if record.exc_info:
            document["traceback"] = self.formatException(record.exc_info)
        return json.dumps(document)
