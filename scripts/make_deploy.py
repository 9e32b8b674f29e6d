"""Writes deploy/, the files that `nixfetch-snapshotter install` would write with its defaults.

python -m scripts.make_deploy            # writes them
python -m scripts.make_deploy --check    # fails where what is there is not what would be written
"""

from __future__ import annotations

import sys
from pathlib import Path

from snapshotter import fragments, install, units
from snapshotter.fragments import Settings

DEPLOY = Path(__file__).parents[1] / "deploy"
VERSIONS = {"containerd-1.6": (1, 6, 0), "containerd-1.7": (1, 7, 0), "containerd-2": (2, 0, 0)}


def files() -> dict[str, str]:
    """The text of each file, by its name below deploy/."""
    settings = Settings()
    found = {f"systemd/{file.path.rpartition('/')[2]}": file.text for file in units.units(settings)}
    for name, version in VERSIONS.items():
        found[f"{name}/nixfetch.toml"] = fragments.containerd_fragment(settings, version)
    plan = install.Plan()
    install.for_k3s(Settings(name=install.K3S_NAME), plan)
    found |= {f"k3s/{file.path.rpartition('/')[2]}": file.text for file in plan.files}
    return found


def main() -> int:
    wanted = files()
    different = [
        name
        for name, text in wanted.items()
        if not (DEPLOY / name).is_file() or (DEPLOY / name).read_text() != text
    ]
    if "--check" in sys.argv[1:]:
        for name in different:
            print(f"deploy/{name} is not what would be written", file=sys.stderr)
        return 1 if different else 0
    for name in different:
        (DEPLOY / name).parent.mkdir(parents=True, exist_ok=True)
        (DEPLOY / name).write_text(wanted[name])
        print(f"deploy/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
