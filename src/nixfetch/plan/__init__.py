"""Decisions without I/O: whom to believe, what to fetch next and from where, how long to wait."""

from __future__ import annotations
