from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pytest

from nixfetch.cli import problems
from nixfetch.cli.output import Output
from nixfetch.errors import FormatError, NixfetchError, StoreError, TransportError, TrustError
from nixfetch.fetch import FetchFailedError, PathReport, Report, Status
from nixfetch.fetch.closure import MissingReferencesError
from nixfetch.formats.nar.reader import NarError
from nixfetch.formats.storepath import StorePath
from nixfetch.plan.sources import AllSourcesFailedError, MissingError
from nixfetch.streams.codecs import UnsupportedCompressionError
from nixfetch.transport import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

HASH = "0" * 31


def path(digit: int, name: str = "p") -> StorePath:
    return StorePath.parse(f"{HASH}{digit % 10}-{name}-{digit}")


def rendered(error: NixfetchError) -> str:
    return "\n".join(problems.render(error))


def failed(*failures: tuple[StorePath, NixfetchError]) -> FetchFailedError:
    report = Report(store="/s", requested=())
    for where, error in failures:
        report.paths[where] = PathReport(path=where, status=Status.FAILED, error=error)
    return FetchFailedError(report)


def written(error: NixfetchError, log_format: str) -> str:
    err = io.BytesIO()
    problems.show(error, Output(None, err), log_format=log_format)
    return err.getvalue().decode()


def test_the_first_line_says_what_failed_and_for_which_path() -> None:
    error = StoreError("disk is full", hint="free some", store="/s", path=path(1), free=0, why=None)
    assert rendered(error) == (
        f"error: disk is full: {path(1)}\n  store: /s\n  free: 0\nhint: free some"
    )


def test_sizes_are_for_people_and_exact() -> None:
    error = StoreError("full", store="/s", needed_bytes=41_176, free_bytes=17, min_free_bytes=None)
    assert rendered(error) == ("error: full: /s\n  needed: 41.2 KB (41176 bytes)\n  free: 17 B")
    assert problems.as_json(error)["facts"]["needed_bytes"] == 41_176


def test_only_a_matter_of_trust_needs_signatures() -> None:
    assert rendered(TrustError("bad", good=0, needed=2)) == (
        "error: bad\n  good signatures: 0\n  good signatures needed: 2"
    )
    assert rendered(StoreError("bad", good=0, needed=2)) == "error: bad\n  good: 0\n  needed: 2"
    wide = FormatError("too wide", needed=9)
    answers = AllSourcesFailedError("bad", [("https://a", wide)], worst=wide)
    assert "  https://a: too wide (needed: 9)" in rendered(answers)


def test_no_value_begins_a_line_of_its_own() -> None:
    error = NixfetchError("bad", hint="a\nb", path="x\nerror: y", raw=b"\xff\nz", text="q\nr")
    assert rendered(error).splitlines() == [
        "error: bad: x\\nerror: y",
        "  raw: \\xff\\nz",
        "  text: q\\nr",
        "hint: a\\nb",
    ]


def test_long_lists_are_counted() -> None:
    lines = rendered(NixfetchError("bad", keys=[f"k{n}" for n in range(10)], none=()))
    assert "keys: k0, k1, k2, k3, k4, k5, k6, k7 and 2 more" in lines
    assert "none: none" in lines


def test_the_chain_leads_from_what_was_asked_for() -> None:
    error = MissingError("path is in no cache", path=path(3), needed_by=["/a", "/b"])
    error.errors = (("https://c", NotFoundError("no such object", status=404, tries=1)),)
    assert rendered(error) == (
        f"error: path is in no cache: {path(3)}\n"
        "  needed by: /a\n"
        "         -> /b\n"
        "  https://c: no such object (status: 404)"
    )


def test_a_long_chain_loses_its_middle() -> None:
    lines = rendered(NixfetchError("bad", needed_by=[f"/{n}" for n in range(30)])).splitlines()
    assert len(lines) == 14
    assert lines[1] == "  needed by: /0"
    assert lines[7] == "         -> 18 more"
    assert lines[-1] == "         -> /29"


def test_what_each_cache_answered() -> None:
    answers: Sequence[tuple[str, NixfetchError]] = (
        ("https://a", TrustError("signature is wrong", cache="https://a", path=path(1))),
        (
            "https://b",
            TransportError("cannot connect", url="https://b/x", reason="refused", tries=5),
        ),
    )
    error = AllSourcesFailedError(
        "no cache gave the path", answers, worst=answers[0][1], path=path(1)
    )
    assert rendered(error) == (
        f"error: no cache gave the path: {path(1)}\n"
        "  https://a: signature is wrong\n"
        "  https://b: cannot connect (reason: refused, tries: 5)"
    )
    document = problems.as_json(error)
    assert [each["url"] for each in document["caches"]] == ["https://a", "https://b"]


def test_malformed_bytes_say_of_what_they_are_and_what_to_do() -> None:
    text = rendered(NarError("archive is truncated", path=path(1), cache="https://a", offset=8))
    assert text.startswith(f"error: malformed archive: archive is truncated: {path(1)}\n")
    assert "hint: what this cache has is damaged" in text
    assert "hint" not in rendered(FormatError("not a digest"))
    assert "hint" not in rendered(UnsupportedCompressionError("none such", cache="https://a"))


def test_failures_come_with_their_reasons_and_consequences_are_counted() -> None:
    missing = MissingError("path is in no cache", path=path(1))
    broken = TrustError("signature is wrong", path=path(2))
    lacking = MissingReferencesError("references are not valid", path=path(3))
    text = rendered(failed((path(3), lacking), (path(1), missing), (path(2), broken)))
    assert text == (
        f"error: signature is wrong: {path(2)}\n"
        f"error: path is in no cache: {path(1)}\n"
        f"error: not registered, since what they refer to failed: {path(3)}"
    )


def test_missing_references_that_nobody_looked_for_are_a_reason() -> None:
    lacking = MissingReferencesError("references are not valid", path=path(3), hint="fetch all")
    assert "error: references are not valid" in rendered(failed((path(3), lacking)))


def test_hundreds_of_failures_are_not_told_one_by_one() -> None:
    errors = [(path(n), TransportError("cannot connect", path=path(n))) for n in range(50)]
    lines = rendered(failed(*errors)).splitlines()
    assert len(lines) == 11
    assert lines[-1] == "error: 40 more paths failed; --json lists all"


def test_json() -> None:
    inner = TrustError("bad", hint="do", path=path(1), keys=("a",), size=3, ok=None)
    document = json.loads(written(failed((path(1), inner)), "json"))
    assert document["level"] == "error"
    assert document["facts"] == {"failed": 1}
    assert document["failures"] == [
        {
            "path": str(path(1)),
            "error": "bad",
            "exit_code": 4,
            "facts": {"path": str(path(1)), "keys": ["a"], "size": 3, "ok": None},
            "hint": "do",
        }
    ]


def test_internal_json_is_a_message_of_nixs() -> None:
    line = written(StoreError("disk is full", path=path(1)), "internal-json")
    assert json.loads(line.removeprefix("@nix ")) == {
        "action": "msg",
        "level": 0,
        "msg": f"error: disk is full: {path(1)}",
        "raw_msg": "disk is full",
    }


def test_no_secret_gets_out() -> None:
    error = NixfetchError("bad", url="https://u:hunter2@h/?token=hunter2", key="k:" + "A" * 88)
    for log_format in ("text", "json", "internal-json"):
        assert "hunter2" not in written(error, log_format)
        assert "AAAA" not in written(error, log_format)


def test_what_nobody_foresaw() -> None:
    error = problems.unforeseen(ValueError("x\ny"))
    assert rendered(error).splitlines()[0] == "error: internal error: ValueError: x\\ny"
    assert "please report" in (error.hint or "")
    assert rendered(problems.unforeseen(MemoryError())) == "error: out of memory"


def test_tracebacks_are_those_of_the_reasons() -> None:
    def raised(problem: str) -> NixfetchError:
        with pytest.raises(NixfetchError) as caught:
            raise NixfetchError(problem)
        return caught.value

    err = io.BytesIO()
    both = Output(None, err)
    problems.show_traceback(failed((path(1), raised("inner one")), (path(2), raised("two"))), both)
    problems.show_traceback(raised("alone"), both)
    text = err.getvalue().decode()
    assert text.count("Traceback") == 3
    assert "inner one" in text
    assert "alone" in text


@pytest.mark.parametrize("log_format", ["json", "internal-json"])
def test_a_traceback_is_one_line_of_a_log_for_programs(log_format: str) -> None:
    with pytest.raises(NixfetchError) as caught:
        raise NixfetchError("alone")
    err = io.BytesIO()
    problems.show_traceback(caught.value, Output(None, err), log_format=log_format)
    [line] = err.getvalue().decode().splitlines()
    if log_format == "json":
        document = json.loads(line)
        assert (document["level"], document["message"]) == ("debug", "alone")
        text = document["traceback"]
    else:
        document = json.loads(line.removeprefix("@nix "))
        assert (document["action"], document["level"]) == ("msg", 6)
        text = document["msg"]
    assert text.startswith("Traceback (most recent call last):\n")


def test_one_failure_too_many() -> None:
    errors = [(path(n), TransportError("cannot connect", path=path(n))) for n in range(11)]
    assert rendered(failed(*errors)).endswith("\nerror: 1 more path failed; --json lists all")
