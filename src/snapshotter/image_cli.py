"""`nixfetch-snapshotter image build|inspect|load|push|ref`: images of store paths.

A PLACE is one of

    FILE.tar                    a tar archive, which Docker and containerd load
    oci:DIR                     a directory of OCI's layout
    docker://HOST/NAME:TAG      a registry; logins are those of `docker login`
    containerd://NAMESPACE/REF  containerd (to there only)
    nix:0/nix/store/HASH-NAME   a path of the store, as an image (from there only)

`build` makes the same bytes of the same paths, whenever and wherever. Its layers name store
paths, and a runtime with this snapshotter, or with nix-snapshotter, brings them; with --plain they
hold the files, for all other runtimes.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    import nixfetch
    from snapshotter.config import Settings
    from snapshotter.image.locations import Access, Loader, Put
    from snapshotter.image.trees import Trees
    from snapshotter.oci.config import Process
    from snapshotter.oci.image import Image
    from snapshotter.oci.model import Platform

    Containerd: TypeAlias = Callable[[Path, str], AbstractContextManager[Loader]]

SUMMARY = "build, look into, load and push images of store paths"
CONFIG = Path("/etc/nixfetch/snapshotter.toml")
"""The settings of the daemon, read where they are: its store and its containerd are meant."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_build(verbs.add_parser("build", help="make an image of store paths", allow_abbrev=False))
    inspect = verbs.add_parser("inspect", help="what is in an image", allow_abbrev=False)
    inspect.add_argument("source", metavar="PLACE", help="of the image")
    inspect.add_argument(
        "--check", action="store_true", help="read all layers, and check them against their digests"
    )
    inspect.add_argument("--json", action="store_true", help="one JSON document")
    load = verbs.add_parser("load", help="make an image known to containerd", allow_abbrev=False)
    load.add_argument("source", metavar="PLACE", help="of the image")
    load.add_argument("target", metavar="containerd://NAMESPACE/REF", help="where it goes")
    push = verbs.add_parser("push", help="send an image to a registry", allow_abbrev=False)
    push.add_argument("source", metavar="PLACE", help="of the image")
    push.add_argument("target", metavar="docker://HOST/NAME:TAG", help="where it goes")
    for verb in (inspect, load, push):
        _add_access(verb)
    ref = verbs.add_parser(
        "ref", help="the reference that a store path has as an image", allow_abbrev=False
    )
    ref.add_argument("paths", nargs="+", metavar="PATH", help="store path")


def _add_build(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="store path; with its closure")
    parser.add_argument("--to", required=True, metavar="PLACE", help="where the image goes")
    parser.add_argument(
        "--entrypoint",
        action="append",
        default=[],
        metavar="WORD",
        help="a word of what is run (repeat it; --entrypoint=-x for words with a dash)",
    )
    parser.add_argument(
        "--cmd", action="append", default=[], metavar="WORD", help="a word of its arguments"
    )
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="a variable"
    )
    parser.add_argument("--user", default="", metavar="USER[:GROUP]", help="who runs it")
    parser.add_argument("--workdir", default="", metavar="DIR", help="where it is run")
    parser.add_argument(
        "--label", action="append", default=[], metavar="NAME=VALUE", help="of the configuration"
    )
    parser.add_argument(
        "--copy-to-root",
        action="append",
        default=[],
        metavar="PATH",
        help="a store path whose contents appear below / as links",
    )
    parser.add_argument("--closure", metavar="PATH", help="a closureInfo of Nixpkgs of the paths")
    parser.add_argument("--from-image", metavar="PLACE", help="the image to build upon")
    parser.add_argument("--name", metavar="REF", help="what the image is called in an archive")
    parser.add_argument("--plain", action="store_true", help="the layers hold the files themselves")
    parser.add_argument(
        "--users", action="store_true", help="a layer with /etc/passwd, /etc/group and /tmp"
    )
    parser.add_argument(
        "--compression", choices=("none", "gzip", "zstd"), default="gzip", help="of our layers"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document")
    _add_access(parser)


def _add_access(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", metavar="ROOT", help="the store (default: the daemon's)")
    parser.add_argument("--config", metavar="FILE", type=Path, help="settings of the daemon")
    parser.add_argument(
        "--platform", metavar="OS/ARCH", help="which image, where there are several; what it is for"
    )
    parser.add_argument("--authfile", type=Path, metavar="FILE", help="logins (config.json)")
    parser.add_argument("--plain-http", action="store_true", help="talk to registries without TLS")
    parser.add_argument("--ca-file", type=Path, metavar="FILE", help="certificates to trust, PEM")
    parser.add_argument("--address", metavar="SOCKET", help="of containerd")
    parser.add_argument(
        "--snapshotter", metavar="NAME", help="of containerd, that gets the layers (default: nix)"
    )


def run(
    args: argparse.Namespace,
    *,
    environ: Mapping[str, str] | None = None,
    containerd: Containerd | None = None,
) -> int:
    """Do what the command line says.

    Args:
        args: it.
        environ: the environment; that of this process by default.
        containerd: connects to the one at a socket, for a snapshotter of that name.
    """
    does = {"build": _build, "inspect": _inspect, "load": _copy, "push": _copy, "ref": _ref}
    does[args.action](args, os.environ if environ is None else environ, containerd or _connecting)
    return 0


def _build(args: argparse.Namespace, environ: Mapping[str, str], containerd: Containerd) -> None:
    from snapshotter.image import bare, locations
    from snapshotter.image.builder import Recipe, building
    from snapshotter.image.machine import machine

    access = _access(args, environ, containerd)
    locations.check(args.to, access)
    name = args.name or locations.name_at(args.to)
    if name is not None:
        name = _checked(name)
    paths = tuple(map(_store_path, args.paths))
    with ExitStack() as stack:
        trees = stack.enter_context(_trees(args, environ))
        found = bare.platform_of(paths[0], trees.closure(paths), trees)
        platform = _platform(args) or found or machine()
        base, origins = None, {}
        if args.from_image is not None:
            opened = locations.opening(args.from_image, access, platform=platform, machine=platform)
            base = stack.enter_context(opened)
            origins = locations.origins_of(base, args.from_image)
        recipe = Recipe(
            paths=paths,
            platform=platform,
            process=_process(args),
            copy_to_root=tuple(map(_store_path, args.copy_to_root)),
            closure_info=_store_path(args.closure) if args.closure else None,
            users=args.users,
            plain=args.plain,
            compression=args.compression,
            base=base,
            name=name,
        )
        image = stack.enter_context(building(recipe, trees))
        put = locations.put(image, args.to, access, origins=origins)
        _say_put(put, image, as_json=args.json)


def _inspect(args: argparse.Namespace, environ: Mapping[str, str], containerd: Containerd) -> None:
    from snapshotter.image import inspection, locations
    from snapshotter.image.machine import machine

    access = _access(args, environ, containerd)
    with locations.opening(
        args.source, access, platform=_platform(args), machine=machine()
    ) as image:
        looked = inspection.look_all(image) if args.check else None
        document = _document(image, looked)
        if args.json:
            _line(json.dumps(document, indent=2))
        else:
            for line in _text(image, looked):
                _line(line)


def _copy(args: argparse.Namespace, environ: Mapping[str, str], containerd: Containerd) -> None:
    from snapshotter.image import locations
    from snapshotter.image.machine import machine

    scheme = {"push": "docker://", "load": "containerd://"}[args.action]
    if not args.target.startswith(scheme):
        raise locations.PlaceError(
            f"`image {args.action}` goes to {scheme}…", text=args.target[:300]
        )
    access = _access(args, environ, containerd)
    locations.check(args.target, access)
    with locations.opening(
        args.source, access, platform=_platform(args), machine=machine()
    ) as image:
        put = locations.put(
            image, args.target, access, origins=locations.origins_of(image, args.source)
        )
        _say_put(put, image, as_json=False)


def _ref(args: argparse.Namespace, _environ: Mapping[str, str], _containerd: Containerd) -> None:
    from snapshotter.imageref import NixReference

    for text in args.paths:
        _line(str(NixReference(_store_path(text))))


# What the arguments mean.


def _access(args: argparse.Namespace, environ: Mapping[str, str], containerd: Containerd) -> Access:
    from snapshotter.image.locations import Access
    from snapshotter.registry import Logins

    return Access(
        logins=lambda: Logins.load(args.authfile or _config_json(environ)),
        plain_http=args.plain_http,
        ca_file=args.ca_file,
        trees=lambda: _trees(args, environ),
        containerd=lambda: _containerd(args, environ, containerd),
    )


def _settings(args: argparse.Namespace, environ: Mapping[str, str]) -> Settings:
    from snapshotter import config

    flags = {"store": args.store or environ.get("NIXFETCH_STORE") or None}
    return config.load(flags, args.config or (CONFIG if CONFIG.exists() else None))


def _containerd(
    args: argparse.Namespace, environ: Mapping[str, str], containerd: Containerd
) -> AbstractContextManager[Loader]:
    from snapshotter.image.locations import PlaceError

    settings = _settings(args, environ)
    service = settings.image_service
    address = args.address or service.containerd_address or settings.containerd_address
    if address is None:
        raise PlaceError("no socket of containerd is known", hint="--address SOCKET")
    return containerd(Path(address), args.snapshotter or service.snapshotter)


def _connecting(address: Path, snapshotter: str) -> AbstractContextManager[Loader]:
    from snapshotter.cri.loading import connecting

    return connecting(address, snapshotter=snapshotter)


def _config_json(environ: Mapping[str, str]) -> Path:
    """Where `docker login` writes to."""
    folder = environ.get("DOCKER_CONFIG") or f"{environ.get('HOME') or '/root'}/.docker"
    return Path(folder, "config.json")


@contextmanager
def _trees(args: argparse.Namespace, environ: Mapping[str, str]) -> Iterator[Trees]:
    import nixfetch
    from snapshotter.image.trees import Trees

    with nixfetch.LocalStore(_settings(args, environ).store, read_only=True) as store:
        yield Trees(store)


def _process(args: argparse.Namespace) -> Process:
    from snapshotter.oci.config import Process

    return Process(
        entrypoint=tuple(args.entrypoint),
        command=tuple(args.cmd),
        environment=tuple("=".join(_pair(text)) for text in args.env),
        user=args.user,
        working_directory=args.workdir,
        labels=dict(_pair(text) for text in args.label),
    )


def _pair(text: str) -> tuple[str, str]:
    from snapshotter.image.locations import PlaceError

    name, equals, value = text.partition("=")
    if not (name and equals):
        raise PlaceError("not NAME=VALUE", text=text[:300])
    return name, value


def _store_path(text: str) -> nixfetch.StorePath:
    import nixfetch
    from snapshotter.image.locations import PlaceError

    try:
        return nixfetch.StorePath.parse(text.removeprefix(f"{nixfetch.STORE_DIR}/").rstrip("/"))
    except nixfetch.FormatError as error:
        raise PlaceError(
            "not a store path",
            text=text[:300],
            reason=error.problem,
            hint="a PATH is /nix/store/HASH-NAME or HASH-NAME",
        ) from error


def _checked(name: str) -> str:
    from snapshotter import imageref

    found = imageref.parse(name)
    if isinstance(found, imageref.RegistryReference):
        found = found.with_tag()
    return str(found)


def _platform(args: argparse.Namespace) -> Platform | None:
    from snapshotter.oci.model import Platform

    return Platform.parse(args.platform) if args.platform else None


# What is printed.


def _line(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _say_put(put: Put, image: Image, *, as_json: bool) -> None:
    if not as_json:
        _line(put.digest)
        return
    document = {
        "digest": put.digest,
        "id": image.id,
        "to": put.place,
        "name": image.name,
        "layers": [
            {"digest": layer.digest, "size": layer.size, "how": put.blobs.get(layer.digest)}
            for layer in image.manifest.layers
        ],
    }
    _line(json.dumps(document, indent=2))


def _document(image: Image, looked: object) -> dict[str, object]:
    process = image.config.process
    return {
        "name": image.name,
        "digest": image.descriptor.digest,
        "id": image.id,
        "media_type": image.manifest.media_type,
        "platform": str(image.config.platform),
        "created": image.config.created,
        "config": process.document(),
        "checked": looked is not None,
        "layers": [
            {**layer.document(), "diff_id": diff_id}
            for layer, diff_id in zip(image.manifest.layers, image.config.diff_ids, strict=True)
        ],
    }


def _text(image: Image, looked: object) -> Iterator[str]:
    from snapshotter import labels

    process = image.config.process
    yield f"name         {_quoted(image.name or '-')}"
    yield f"digest       {image.descriptor.digest}"
    yield f"id           {image.id}"
    yield f"platform     {_quoted(str(image.config.platform))}"
    yield f"entrypoint   {' '.join(map(_quoted, process.entrypoint)) or '-'}"
    yield f"command      {' '.join(map(_quoted, process.command)) or '-'}"
    for variable in process.environment:
        yield f"environment  {_quoted(variable)}"
    for layer in image.manifest.layers:
        paths = sum(label.startswith(labels.NIX_STORE_PATH) for label in layer.annotations)
        closure = labels.NIX_CLOSURE in layer.annotations
        kind = f"{paths} store paths" + (", closure" if closure else "") if paths or closure else ""
        what = f"{_quoted(layer.media_type)}  {kind}".rstrip()
        yield f"layer        {layer.digest}  {layer.size}  {what}"
    if looked is not None:
        yield "checked      all layers are what they should be"


def _quoted(text: str) -> str:
    """A word as it can be pasted; what a terminal would obey is shown by its number."""
    import shlex

    return shlex.quote(text) if text.isprintable() else json.dumps(text)
