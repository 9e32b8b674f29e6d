"""What caches and stores say about paths, as Nix reports it. Fetches nothing, writes nothing."""

from __future__ import annotations

from nixfetch.report.ask import NotValidError, ask_caches, ask_store
from nixfetch.report.closure import (
    ClosureFailedError,
    ClosureReport,
    closure,
    references_in_store,
    trusted_references,
)
from nixfetch.report.columns import Columns
from nixfetch.report.info import Download, PathInfo
from nixfetch.report.nixjson import JsonFormat, document
from nixfetch.report.survey import ClosureSize, Survey, SurveyFailedError, survey

__all__ = (
    "ClosureFailedError",
    "ClosureReport",
    "ClosureSize",
    "Columns",
    "Download",
    "JsonFormat",
    "NotValidError",
    "PathInfo",
    "Survey",
    "SurveyFailedError",
    "ask_caches",
    "ask_store",
    "closure",
    "document",
    "references_in_store",
    "survey",
    "trusted_references",
)
