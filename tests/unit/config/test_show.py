from __future__ import annotations

import base64
import json

import pytest

from nixfetch.config import Config, load_config, show

SECRET = "k-1:" + base64.b64encode(bytes(64)).decode()


@pytest.fixture
def config() -> Config:
    flags = {
        "store": "/s",
        "from": ["https://u:hunter2@h?priority=3&token=hunter2", "s3://b?region=r"],
        "trusted_key": ["a-1:AA", SECRET],
        "jobs": 2,
        "no_check_sigs": True,
    }
    nothing = {"NIX_CONFIG": "connect-timeout = 0\nsecret-key-files = /k"}
    return load_config(flags, nothing, read=lambda _: None, exists=lambda _: False)


def test_text_is_sorted_lines(config: Config) -> None:
    lines = show(config).splitlines()
    assert lines == sorted(lines)
    assert "check-sigs = false" in lines
    assert "connect-timeout =" in lines
    assert "from = https://h?priority=3 s3://b?region=r" in lines
    assert "jobs = 2" in lines
    assert "secret-key-files = /k" in lines
    assert not any(line.startswith("json") for line in lines)


def test_origins_are_comments(config: Config) -> None:
    lines = show(config, origin=True).splitlines()
    assert "jobs = 2  # flag --jobs" in lines
    assert "connect-timeout =  # NIX_CONFIG:1" in lines
    assert "sigs-needed = 1  # default" in lines


def test_json(config: Config) -> None:
    shown = json.loads(show(config, origin=True, as_json=True))
    assert shown["jobs"] == {"value": 2, "origin": "flag --jobs"}
    assert shown["connect-timeout"] == {"value": None, "origin": "NIX_CONFIG:1"}
    assert shown["from"]["value"] == ["https://h?priority=3", "s3://b?region=r"]
    assert json.loads(show(config, as_json=True))["store"] == {"value": "/s"}


@pytest.mark.parametrize("as_json", [False, True])
def test_secrets_are_never_shown(config: Config, *, as_json: bool) -> None:
    text = show(config, origin=True, as_json=as_json)
    assert "hunter2" not in text
    assert SECRET not in text
    assert "a-1:AA" in text
