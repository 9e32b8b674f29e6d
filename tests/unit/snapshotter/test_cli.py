from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from snapshotter import cli, config

if TYPE_CHECKING:
    from pathlib import Path


def test_errors_are_lines_and_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["serve", "--root", "relative"]) == 78
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "error: setting has an unfit value",
        "  setting: root",
        "  wanted: an absolute path",
        "  flag: --root",
    ]


def test_an_unknown_key_has_a_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "f.toml").write_text("rooot = '/a'")
    assert cli.run(["serve", "--config", str(tmp_path / "f.toml")]) == 78
    assert "hint: did you mean root?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["serve", "--help"], 0),
        ([], 2),
        (["nonsense"], 2),
        (["serve", "--ro", "/a"], 2),  # no abbreviations: they would be flags for ever
        (["serve", "--mount-mode", "both"], 2),
    ],
)
def test_what_argparse_answers(
    arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.run(arguments)
    assert caught.value.code == code
    assert (capsys.readouterr().out != "") is (code == 0)


def test_every_verb_is_listed_with_its_summary(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.run(["--help"])
    text = capsys.readouterr().out
    for verb in cli.VERBS:
        assert f"    {verb} " in text


def test_every_setting_that_has_a_flag_is_taken_from_it() -> None:
    args = vars(cli.parser(["serve"]).parse_args(["serve"]))
    only_in_files = {"durable"} | {name for name in config.NAMES if name.startswith("image_")}
    assert set(config.NAMES) - args.keys() <= only_in_files
    assert all(args[name] is None for name in args.keys() & set(config.NAMES))


def test_help_imports_nothing_heavy() -> None:
    import subprocess

    script = (
        "import sys; from snapshotter import cli\n"
        "try: cli.run(['serve', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'grpc', 'sqlite3', 'boto3', 'httpx', 'asyncio'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
