from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from nixfetch.cli import app, arguments
from nixfetch.cli.arguments import Answer
from nixfetch.cli.context import UsageError

if TYPE_CHECKING:
    import argparse

VERBS = {"get": "get", "path-info": "path_info", "keys": "keys"}


def load(name: str) -> ModuleType:
    """Three verbs: one with a flag and operands, one plain, one with actions."""
    module = ModuleType(name, f"`nixfetch {name}`: short.\n\nLong, of {name}.\n")
    vars(module)["SUMMARY"] = f"what {name} does"

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        if name == "get":
            parser.add_argument("paths", nargs="+")
            parser.add_argument("--dry-run", action="store_true")
        if name == "keys":
            actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
            actions.add_parser("list").add_argument("--all", action="store_true")

    vars(module)["add_arguments"] = add_arguments
    return module


def parse(*words: str) -> dict[str, object]:
    return vars(arguments.parse(words, VERBS, load))


def refusal(*words: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        parse(*words)
    assert caught.value.exit_code == 2
    return caught.value


def answer(*words: str) -> str:
    with pytest.raises(Answer) as caught:
        parse(*words)
    return caught.value.text


def test_flags_that_are_not_given_leave_no_trace() -> None:
    assert parse("get", "a") == {"verb": "get", "paths": ["a"], "dry_run": False}


def test_global_flags_stand_before_or_behind_the_verb() -> None:
    before = parse("--store", "/s", "--json", "get", "a")
    behind = parse("get", "--store", "/s", "a", "--json")
    assert before == behind
    assert before["store"] == "/s"


def test_a_flag_behind_the_verb_wins() -> None:
    assert parse("--store", "/s", "get", "--store=/t", "a")["store"] == "/t"


def test_flags_that_repeat_add_up_wherever_they_stand() -> None:
    args = parse("--from", "1", "-v", "get", "--from", "2", "a", "-vv", "--from=3", "-q")
    assert args["from"] == ["1", "2", "3"]
    assert args["verbosity"] == 2


def test_flags_add_up_behind_an_action_too() -> None:
    args = parse("--from", "1", "keys", "--from", "2", "-v", "list", "--from", "3", "--all", "-v")
    assert args["from"] == ["1", "2", "3"]
    assert (args["verbosity"], args["action"], args["all"]) == (2, "list", True)


def test_the_value_of_a_flag_is_no_verb() -> None:
    assert parse("--store", "get", "get", "a")["store"] == "get"


def test_an_unknown_verb() -> None:
    assert str(refusal("gett", "a")) == "no such verb: gett"
    assert refusal("gett").hint == "did you mean `get`?"
    assert refusal("zzzz").hint == "`nixfetch --help` lists what there is"


def test_no_verb() -> None:
    assert refusal().hint == "one of get, path-info, keys"
    assert refusal("--json").problem == "a verb is missing"


def test_an_unknown_flag() -> None:
    assert refusal("get", "--dryrun", "a").hint == "did you mean `--dry-run`?"
    assert refusal("--stroe", "/x", "get", "a").hint == "did you mean `--store`?"
    assert refusal("get", "a", "--zzzz").hint == "`nixfetch get --help` lists what there is"
    assert refusal("keys", "list", "--al").hint == "did you mean `--all`?"


def test_the_value_of_an_unknown_flag_is_not_repeated() -> None:
    error = refusal("get", "a", "--tokn=hunter2")
    assert "hunter2" not in f"{error} {error.hint}"


def test_no_flag_can_be_abbreviated() -> None:
    assert refusal("get", "--dry", "a").hint == "did you mean `--dry-run`?"


def test_an_operand_too_many() -> None:
    assert refusal("path-info", "extra").problem == "one argument too many: extra"
    assert refusal("--", "path-info").problem == "one argument too many: --"


def test_what_argparse_finds() -> None:
    assert "required: paths" in refusal("get").problem
    assert refusal("get").hint == "`nixfetch get --help` says more"
    assert "invalid choice" in refusal("get", "--progress", "x", "a").problem
    assert "invalid choice" in refusal("keys", "lst").problem
    assert "expected one argument" in refusal("get", "a", "--from").problem


def test_top_help_lists_verbs_flags_and_exit_codes() -> None:
    text = answer("--help")
    assert "  path-info  what path_info does\n" in text
    assert "--trusted-key NAME:BASE64" in text
    assert "78 configuration" in text
    assert text.endswith("interrupted\n")


def test_help_of_a_verb_is_its_docstring() -> None:
    text = answer("--from", "x", "get", "--help")
    assert text.startswith(
        "usage: nixfetch get [-h] [--dry-run] paths [paths ...]\n\nLong, of get."
    )
    assert "global flags:" in text
    assert "--dry-run" in answer("get", "-h")
    assert "usage: nixfetch keys list [-h] [--all]" in answer("keys", "list", "-h")


def test_version() -> None:
    assert answer("--version").startswith("nixfetch ")


@pytest.mark.parametrize("columns", ["40", "0", "200", "x", ""])
def test_help_is_at_most_100_columns_wide(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # argparse asks for no width: it reads the environment, and so does this module for it.
    monkeypatch.setenv("COLUMNS", columns)
    assert max(map(len, answer("get", "--help").splitlines())) <= 100


def test_the_real_verbs_have_what_the_frame_needs() -> None:
    parsers = app.parsers()
    assert {"nixfetch", *(f"nixfetch {verb}" for verb in app.VERBS), "nixfetch nar ls"} <= set(
        parsers
    )
    for parser in parsers.values():
        assert "global flags:" in parser.format_help()


@pytest.mark.parametrize("verb", ["fetch", "path-info", "closure", "verify"])
def test_flags_about_caches(verb: str) -> None:
    flags = ["--bandwidth", "10M", "--offline", "--race", "--refresh"]
    paths = [] if verb == "verify" else ["x"]
    for line in ([*flags, verb, *paths], [verb, *paths, *flags]):
        found = vars(arguments.parse(line, app.VERBS, app._module))
        given = {found[name] for name in ("offline", "race", "refresh")}
        assert (given, found["bandwidth"]) == ({True}, "10M")
