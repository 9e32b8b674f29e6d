from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unit.cli.conftest import Run


def test_all_settings_are_shown(run: Run) -> None:
    ran = run("config", "show", "--jobs", "3")
    assert ran.code == 0
    assert "jobs = 3\n" in ran.out
    assert ran.err == ""


def test_origins(run: Run) -> None:
    ran = run("config", "show", "--origin", environ={"NIXFETCH_JOBS": "3"})
    assert "jobs = 3  # NIXFETCH_JOBS\n" in ran.out


def test_json(run: Run) -> None:
    ran = run("--json", "config", "show")
    assert json.loads(ran.out)["sigs-needed"] == {"value": 1}


def test_no_secret_is_shown(run: Run) -> None:
    ran = run("config", "show", "--from", "https://user:hunter2@cache.example", "--origin")
    assert "https://cache.example" in ran.out
    assert "hunter2" not in ran.out


def test_an_action_is_needed(run: Run) -> None:
    assert run("config").code == 2
