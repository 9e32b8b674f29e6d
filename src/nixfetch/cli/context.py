"""What a verb works with, made from the settings: the one place that composes the library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nixfetch.errors import NixfetchError, facts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from nixfetch.cache import CacheGroup
    from nixfetch.cli.output import Output
    from nixfetch.config import Config
    from nixfetch.formats.storepath import StorePath
    from nixfetch.plan.trust import TrustPolicy
    from nixfetch.store import LocalStore


_LONGEST_SHOWN = 300  # characters of an argument that is no store path
_PATH = "a PATH is /nix/store/HASH-NAME, HASH-NAME, or the 32-digit HASH alone"


class UsageError(NixfetchError):
    """The command line asks for something that makes no sense."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Context:
    """The settings, and what is made of them when a verb asks for it."""

    config: Config
    output: Output
    steerable: bool = False
    """Whether stderr is a terminal that can move its cursor."""
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The environment, for secrets that it holds."""

    @classmethod
    def load(
        cls, flags: Mapping[str, object], environ: Mapping[str, str], output: Output
    ) -> Context:
        """Read all settings, and say where logs go.

        Args:
            flags: the parsed command line.
            environ: the environment.
            output: where to write.

        Raises:
            UsageError: a flag has a value that cannot be used.
            ConfigError: a setting of a file or the environment has one.
        """
        from nixfetch import config
        from nixfetch.cli import logs

        _check_keys(flags.get("trusted_key"))
        try:
            settings = config.load_config(flags, environ, home=_passwd_home())
        except config.ConfigError as error:
            origin = str(error.facts.get("origin", ""))
            if not origin.startswith("flag ") or "file" in error.facts:
                raise
            known = {name: value for name, value in error.facts.items() if name != "setting"}
            raise UsageError(error.problem, hint=error.hint, **known) from error
        logs.set_up(output, settings.log_format, settings.verbosity)
        for note in settings.skipped:
            logs.note(note)
        steerable = output.on_terminal() and environ.get("TERM", "dumb") != "dumb"
        return cls(settings, output, steerable, environ)

    def store(
        self, *, read_only: bool = False, durable: bool = True, dedup: bool = True
    ) -> LocalStore:
        """Open the store, as `LocalStore` takes it.

        Raises:
            StoreError: it cannot be.
        """
        from nixfetch.store import LocalStore

        root = self.config.store_root()
        with facts(store=root):
            return LocalStore(root, read_only=read_only, durable=durable, dedup=dedup)

    def policy(self) -> TrustPolicy:
        """Whom to believe.

        Raises:
            ConfigError: a key is malformed: dropping it would trust less than was asked for.
        """
        from nixfetch.config.composed import policy_of

        return policy_of(self.config)

    def caches(self) -> CacheGroup:
        """The caches, none of them asked yet.

        Raises:
            ConfigError: a URL that is none, or credentials that cannot be read.
        """
        from nixfetch.config import ConfigError
        from nixfetch.config.composed import open_configured
        from nixfetch.transport import UrlError

        try:
            return open_configured(self.config, self.environ)
        except UrlError as error:
            origin = self.config.origins.get("substituters", "")
            kind = UsageError if origin.startswith("flag ") else ConfigError
            raise kind(error.problem, hint=error.hint, **error.facts) from error

    def paths(self, texts: list[str], *, caches: CacheGroup | None = None) -> list[StorePath]:
        """The store paths that the user means.

        Args:
            texts: full paths, base names, or hash parts alone.
            caches: who knows the names that belong to hash parts; the store without them.

        Raises:
            UsageError: one is none of these.
            MissingError: the store, or no cache, has that hash part.
            NixfetchError: caches failed at it.
        """
        return [self._path(text, caches) for text in texts]

    def known_paths(
        self, texts: list[str], *, caches: CacheGroup
    ) -> tuple[list[StorePath], list[NixfetchError]]:
        """The store paths that the user means, and why the others are none that a cache knows.

        Args:
            texts: as `paths` takes them.
            caches: who knows the names that belong to hash parts.

        Raises:
            UsageError: one is no store path at all.
        """
        paths: list[StorePath] = []
        lost: list[NixfetchError] = []
        for text in texts:
            try:
                paths.append(self._path(text, caches))
            except UsageError:
                raise
            except NixfetchError as error:
                lost.append(error)
        return paths, lost

    def _path(self, text: str, caches: CacheGroup | None) -> StorePath:
        from nixfetch.formats.storepath import STORE_DIR, StorePath, StorePathError, is_hash_part
        from nixfetch.plan.sources import MissingError

        base = text.removeprefix(STORE_DIR + "/").rstrip("/")
        if not is_hash_part(base):
            try:
                return StorePath.parse(base)
            except StorePathError as error:
                raise UsageError(
                    f"not a store path: {text[:_LONGEST_SHOWN]}",
                    hint=_inside(base) or _PATH,
                    reason=error.problem,
                ) from error
        if caches is not None:
            return caches.resolve(base)
        with self.store(read_only=True) as store:
            path = store.by_hash_part(base)
        if path is None:
            raise MissingError("no valid path has this hash part", hash_part=base)
        return path


def _inside(text: str) -> str | None:
    """What to do about a file of a store path; None where `text` is something else."""
    from nixfetch.formats.storepath import StorePath, StorePathError, is_hash_part

    base, slash, inner = text.partition("/")
    if not slash:
        return None
    if not is_hash_part(base):
        try:
            StorePath.parse(base)
        except StorePathError:
            return None
    return (
        f"leave out /{inner[:_LONGEST_SHOWN]}: paths come whole; `nixfetch run` starts a program"
        " of one"
    )


def _check_keys(given: object) -> None:
    """Refuse a malformed key of a flag before anything else is looked at.

    Raises:
        UsageError: there is one.
    """
    from nixfetch.errors import FormatError
    from nixfetch.formats.signing import PublicKey

    for text in given if isinstance(given, list) else ():
        try:
            PublicKey.parse(text)
        except FormatError as error:
            raise UsageError(
                error.problem,
                hint=error.hint or "--trusted-key takes NAME:BASE64, the public half of a key",
                origin="flag --trusted-key",
                **error.facts,
            ) from error


def _passwd_home() -> Path | None:
    """The home directory that the passwd database names, for whoever has no HOME."""
    import os
    import pwd
    from pathlib import Path

    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return None
