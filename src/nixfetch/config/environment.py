"""Reads settings from the environment and from parsed flags. Decides no precedence.

A variable that is empty counts as unset. Variables that begin with NIXFETCH_ and name no setting
are none of our business: tests and wrappers have their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nixfetch.config import values
from nixfetch.config.settings import CA_FILE, SETTINGS, Assignment, Flag, Setting
from nixfetch.errors import facts

if TYPE_CHECKING:
    from collections.abc import Mapping

_CA_VARIABLES = ("SSL_CERT_FILE", "NIX_SSL_CERT_FILE")  # the one that counts more last


def certificates(environ: Mapping[str, str]) -> list[Assignment]:
    """What the variables that other programs heed too say of certificates.

    Nix's manual lets them override ``ssl-cert-file``; in Nix 2.34 the file wins all the same.
    We do as the manual says: whoever sets them does so for one run.
    """
    return [
        Assignment(setting=CA_FILE, value=environ[name], origin=name)
        for name in _CA_VARIABLES
        if environ.get(name)
    ]


def parse(environ: Mapping[str, str]) -> list[Assignment]:
    """What the NIXFETCH_ variables set; additions come after what they add to.

    Raises:
        ConfigError: a value is unfit.
    """
    found = []
    for setting in SETTINGS:
        if setting.only_flag:
            continue
        names = [setting.variable]
        if isinstance(setting.kind, values.Words):
            names.append(setting.extra_variable)
        for name in filter(environ.get, names):
            with facts(origin=name, setting=setting.name):
                value = values.parse(setting.kind, environ[name])
            append = name == setting.extra_variable
            found.append(Assignment(setting=setting, value=value, origin=name, append=append))
    return found


def parse_flags(flags: Mapping[str, object]) -> list[Assignment]:
    """What the command line sets.

    Args:
        flags: values by `Flag.key`: text or a value of the setting's type, a list of text for
            flags that repeat; None, False and an absent key all mean "not given". Other keys are
            those of verbs, and are passed over.

    Raises:
        ConfigError: a value is unfit.
    """
    found = []
    for setting in SETTINGS:
        flag = setting.flag
        given = flags.get(flag.key) if flag else None
        if flag and given is not None and given is not False:
            found.append(_given(setting, flag, given))
    return found


def _given(setting: Setting, flag: Flag, given: object) -> Assignment:
    origin = f"flag {flag.name}"
    with facts(origin=origin, setting=setting.name):
        if flag.inverts:
            given = given is not True
        if isinstance(given, str) and not isinstance(setting.kind, values.Words):
            value = values.parse(setting.kind, given)
        else:
            value = values.check(setting.kind, given)
    return Assignment(setting=setting, value=value, origin=origin, append=flag.appends)
