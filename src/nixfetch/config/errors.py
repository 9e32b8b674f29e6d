"""Settings that cannot be used. Does not know which source they came from: facts say that."""

from __future__ import annotations

from nixfetch.errors import NixfetchError


class ConfigError(NixfetchError):
    """A setting, or a file of settings, that a person must put right.

    Facts, where known: `origin` (the flag, the variable, or ``file:line``), `setting`,
    `value` (never a secret), `expected`.
    """

    exit_code = 78


class UnreadableFileError(ConfigError):
    """A file of settings is there, and cannot be read."""
