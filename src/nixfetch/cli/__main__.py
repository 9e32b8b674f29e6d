"""`python -m nixfetch.cli`."""

from __future__ import annotations

from nixfetch.cli import main

main()
