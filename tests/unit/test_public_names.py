"""The front door of the library."""

from __future__ import annotations

import subprocess
import sys

import pytest

import nixfetch


def test_every_public_name_is_there_and_documented() -> None:
    assert set(nixfetch._HOMES) == set(nixfetch.__all__) == set(dir(nixfetch))
    for name in nixfetch.__all__:
        value = getattr(nixfetch, name)
        assert isinstance(value, str) or value.__doc__, name


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'fetch_everything'"):
        nixfetch.fetch_everything  # noqa: B018 - the look-up is the test


def test_the_import_loads_nothing() -> None:
    code = "import sys, nixfetch; print(sorted(m for m in sys.modules if m.startswith('nixfetch')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['nixfetch']"
