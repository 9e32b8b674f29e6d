from __future__ import annotations

from pathlib import Path

from scripts import make_deploy


def test_deploy_holds_what_install_writes() -> None:
    for name, text in make_deploy.files().items():
        assert (make_deploy.DEPLOY / name).read_text() == text, f"run scripts.make_deploy: {name}"


def test_nothing_there_is_from_an_older_install() -> None:
    made = {Path(name).parts[0] for name in make_deploy.files()}
    for folder in made:
        there = {f"{folder}/{file.name}" for file in (make_deploy.DEPLOY / folder).iterdir()}
        assert there <= set(make_deploy.files())
