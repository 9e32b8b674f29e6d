"""Makes store paths valid and keeps them, as `nix-store --realise` does. One thread, one store.

The store is that of the settings of `nixfetch`; where they name none, the machine's own: whoever
calls shows /nix/store to containers. What is valid already costs no look at the caches, nor are
they loaded. Links are made when all paths are there: a path that fails leaves no link.
"""

from __future__ import annotations

import os
import pwd
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import nixfetch
from snapshotter.errors import InvalidArgumentError, PreconditionError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from nixfetch import Config, LocalStore, StorePath

STORE: Final = "/"
"""The root of the store, where the settings say nothing."""
_REFUSALS = frozenset({"EACCES", "EPERM", "EROFS"})
_PLACE_HINT = "as root, make /nix and give it to who runs this: install -d -o USER /nix"
_INSIDE = f"{nixfetch.STORE_DIR}/"


class NotInStoreError(InvalidArgumentError):
    """It is no store path."""


class LinkPlaceError(PreconditionError):
    """A link cannot be made there."""


def realise(
    texts: Sequence[str],
    link: str | None,
    *,
    environ: Mapping[str, str],
    say: Callable[[str], object],
) -> list[str]:
    """Make paths, and all that they refer to, valid; keep each by a link.

    Args:
        texts: the paths.
        link: that of the first one, relative to the working directory; the second one's is LINK-2,
            and so on. None: nothing keeps them.
        environ: the environment, for the settings.
        say: told what happens, a line at a time.

    Returns:
        The links, or without them the paths, as Nix prints them.

    Raises:
        NotInStoreError: one is no store path.
        LinkPlaceError: a link cannot be made.
        NixfetchError: a path cannot be had, or the store not be used.
    """
    paths = [store_path(text) for text in texts]
    if not paths:
        return []
    links = [] if link is None else _links(link, len(paths))
    for place in links:
        _check_place(place)
    config = nixfetch.load_config({}, environ, home=_home())
    with _open(store_root(config)) as store:
        if not _is_there(paths, store):
            for note in config.skipped:
                say(f"warning: {note}")
            _fetch(list(dict.fromkeys(paths)), store, config, environ, say)
        _keep(links, paths, store)
    return [str(place) for place in links] or [str(path) for path in paths]


def store_path(text: str) -> StorePath:
    """The store path that `text` is, or that it leads into; links are not followed.

    Raises:
        NotInStoreError: it is none.
    """
    place = os.path.abspath(text)  # noqa: PTH100 - ".." goes by the text: no link is followed
    base, _, _ = place.removeprefix(_INSIDE).partition("/")
    if not place.startswith(_INSIDE):
        raise NotInStoreError(f"path '{place}' is not in the Nix store")
    try:
        path = nixfetch.StorePath.parse(base)
    except nixfetch.FormatError as error:
        raise NotInStoreError(f"'{base}' is not a valid store path: {error.problem}") from error
    if path.name.endswith(".drv"):
        raise NotInStoreError(
            f"cannot build '{path}'", hint="nixfetch takes paths from caches and builds none"
        )
    return path


def store_root(config: Config) -> str:
    """Where the store is: where a setting says, else the machine's own."""
    if config.store is None or config.origins.get("store") == "default":
        return STORE
    return config.store


def _open(root: str) -> LocalStore:
    try:
        return nixfetch.LocalStore(root)
    except nixfetch.DiskError as error:
        if root == STORE and error.facts.get("errno") in _REFUSALS:
            error.hint = _PLACE_HINT
        raise


def _is_there(paths: Sequence[StorePath], store: LocalStore) -> bool:
    """Whether all paths are valid, and on the disk with all that they refer to; they stay."""
    if store.hold(paths) < set(paths):
        return False
    for error in store.gone(store.closure(paths)).values():
        raise error
    return True


def _fetch(
    paths: Sequence[StorePath],
    store: LocalStore,
    config: Config,
    environ: Mapping[str, str],
    say: Callable[[str], object],
) -> None:
    """Fetch paths. A failure that is only remembered is none: a pod may be older than its paths."""
    try:
        _fetch_once(paths, store, config, environ, say)
    except nixfetch.FetchFailedError as error:
        from snapshotter.fetching import is_remembered

        if not is_remembered(error.report):
            raise
        _fetch_once(paths, store, replace(config, refresh=True), environ, say)


def _fetch_once(
    paths: Sequence[StorePath],
    store: LocalStore,
    config: Config,
    environ: Mapping[str, str],
    say: Callable[[str], object],
) -> None:
    def show(event: nixfetch.progress.Event) -> None:
        if isinstance(event, nixfetch.progress.Started):
            say(f"copying path '{event.path}' from '{event.cache}'...")

    with nixfetch.open_configured(config, environ) as caches:
        nixfetch.fetch_closure(
            paths,
            caches=caches,
            policy=nixfetch.policy_of(config),
            store=store,
            jobs=config.jobs,
            on_event=show,
        )


def _links(link: str, count: int) -> list[Path]:
    first = os.path.abspath(link)  # noqa: PTH100 - as Nix: the text, whatever is a link in it
    return [Path(first if number == 1 else f"{first}-{number}") for number in range(1, count + 1)]


def _check_place(link: Path) -> None:
    """Refuse early what cannot become a link: before anything is downloaded for it."""
    if os.path.lexists(link) and not _is_link_into_store(link):
        raise LinkPlaceError(f"cannot create symlink '{link}'; already exists")
    above = next(place for place in link.parents if os.path.lexists(place))
    if not above.is_dir():
        raise LinkPlaceError(f"creating directory '{above}': Not a directory")
    if not os.access(above, os.W_OK | os.X_OK):
        raise LinkPlaceError(
            f"cannot create symlink '{link}'; the directory '{above}' is not writable"
        )


def _is_link_into_store(link: Path) -> bool:
    try:
        return os.readlink(link).startswith(_INSIDE)  # noqa: PTH115 - as it is written
    except OSError:
        return False


def _keep(links: Sequence[Path], paths: Sequence[StorePath], store: LocalStore) -> None:
    """Make all links, or none of those that were not there."""
    made: list[Path] = []
    roots = nixfetch.Roots(store)
    try:
        for link, path in zip(links, paths, strict=bool(links)):
            made += _make_directories(link.parent)
            if not os.path.lexists(link):
                made.append(link)
            roots.add(str(link), path)
    except BaseException:
        _undo(made, roots)
        raise


def _make_directories(directory: Path) -> list[Path]:
    """Make what is missing above a link, after a power cut too; what was made."""
    missing = [directory, *directory.parents]
    missing = missing[: next(n for n, place in enumerate(missing) if place.is_dir())]
    made: list[Path] = []
    try:
        for place in reversed(missing):
            place.mkdir(exist_ok=True)
            made.append(place)
            _flush(place.parent)
    except OSError as error:
        for place in reversed(made):
            with suppress(OSError):
                place.rmdir()
        raise LinkPlaceError(f"creating directory '{place}': {error.strerror}") from error
    return made


def _undo(made: Sequence[Path], roots: nixfetch.Roots) -> None:
    """Remove links and directories again, as far as that goes."""
    for place in reversed(made):
        with suppress(OSError, nixfetch.NixfetchError):
            if place.is_symlink():
                with suppress(nixfetch.NoSuchRootError):
                    roots.remove(str(place))
                place.unlink(missing_ok=True)
            else:
                place.rmdir()


def _flush(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _home() -> Path | None:
    """The home directory that the passwd database names: services often have no HOME."""
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return None
