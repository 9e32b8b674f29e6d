"""What is wrong with a cache, or with this machine, and what to do about it. Changes nothing."""

from __future__ import annotations

from nixfetch.doctor.cache import Asking, examine_cache, glance
from nixfetch.doctor.checks import Check, exit_code
from nixfetch.doctor.machine import examine_machine
from nixfetch.doctor.nars import NarCensus, take_census

__all__ = (
    "Asking",
    "Check",
    "NarCensus",
    "examine_cache",
    "examine_machine",
    "exit_code",
    "glance",
    "take_census",
)
