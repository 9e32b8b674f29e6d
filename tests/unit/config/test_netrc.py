from __future__ import annotations

import pytest

from nixfetch.config import ConfigError
from nixfetch.config.netrc import Entry, Netrc, NetrcError
from nixfetch.transport import Basic

HOST = "cache.example"

UP = ("u", "p")
CASES: dict[str, tuple[str, tuple[str, str] | None]] = {
    "one line": (f"machine {HOST} login u password p", UP),
    "a token a line": (f"machine\n\n  {HOST}\nlogin\n\tu\npassword\n p\n", UP),
    "DOS lines": (f"machine {HOST}\r\nlogin u\r\npassword p\r\n", UP),
    "a byte order mark": (f"\ufeffmachine {HOST} login u password p", UP),
    "any case": ("MACHINE Cache.Example Login u PASSWORD p", UP),
    "password first": (f"machine {HOST} password p login u", UP),
    "no login": (f"machine {HOST} password p", ("", "p")),
    "no password": (f"machine {HOST} login u", ("u", "")),
    "neither": (f"machine {HOST}", None),
    "neither, and another entry": (f"machine {HOST}\nmachine {HOST} login u password p", UP),
    "another host": ("machine other.example login u password p", None),
    "a part of the host": ("machine example login u password p", None),
    "no wildcards": ("machine *.example login u password p", None),
    "no ports": (f"machine {HOST}:80 login u password p", None),
    "the first entry": (
        f"machine {HOST} login u password p machine {HOST} login v password q",
        UP,
    ),
    "the last value": (f"machine {HOST} login x login u password y password p", UP),
    "account": (f"machine {HOST} account login login u account password password p", UP),
    "default": ("machine other.example login x password y\ndefault login u password p", UP),
    "default alone": ("default", None),
    "default in front": (f"default login x password y\nmachine {HOST} login u password p", UP),
    "default for nothing said": (f"machine {HOST}\ndefault login u password p", UP),
    "a machine called default": ("machine default login u password p", None),
    "keywords as values": (
        f"machine {HOST} login machine password default",
        ("machine", "default"),
    ),
    "a macro": (f"macdef init\nmachine {HOST} login x\n\nmachine {HOST} login u password p", UP),
    "a macro to the end": (f"machine {HOST} login u password p\nmacdef init\nlogin x", UP),
    "a macro within": (f"machine {HOST} login u\nmacdef i\nlogin x\n \t\npassword p", UP),
    "a macro with words behind": (f"macdef i login\nx\n\nmachine {HOST} login u password p", UP),
    "a comment": (f"# machine {HOST} login x\nmachine {HOST} login u password p", UP),
    "a comment behind": (f"machine {HOST} # login x\nlogin u password p # password y", UP),
    "a comment before a value": (f"machine {HOST} login\n  # x\nu password p", UP),
    "no comment": (f"machine {HOST} login #u password p#q", ("#u", "p#q")),
    "quotes": (f'machine "{HOST}" login "u" password "p q"', ("u", "p q")),
    "escapes": (
        f'machine {HOST} login u password "a\\"b\\\\c\\nd\\re\\tf\\g"',
        ("u", 'a"b\\c\nd\re\tfg'),
    ),
    "no escapes": (f"machine {HOST} login u password p\\q\\\\r", ("u", "p\\q\\\\r")),
    "quotes within": (f'machine {HOST} login u"x password p"', ('u"x', 'p"')),
    "empty quotes": (f'machine {HOST} login "" password ""', ("", "")),
    "quoted words are no keywords": (f'machine {HOST} "login" x login u password p', UP),
    "not ASCII": (f"machine {HOST} login ü password pä", ("ü", "pä")),
    "unknown words": (f"foo machine {HOST} bar login u password p baz", UP),
    "empty": ("", None),
}


@pytest.mark.parametrize("case", CASES)
def test_grammar(case: str) -> None:
    text, expected = CASES[case]
    found = Netrc.parse(text).find(HOST)
    assert (found and (found.user, found.password)) == expected
    assert Netrc.parse(text + "\n").find(HOST.upper()) == found


@pytest.mark.parametrize("host", ["::1", "127.0.0.1", "localhost"])
def test_addresses(host: str) -> None:
    found = Netrc.parse(f"machine {host} login u password p").find(host)
    assert found == Basic("u", "p")


@pytest.mark.parametrize(
    ("text", "user", "expected"),
    [
        (f"machine {HOST} login u password p\nmachine {HOST} login v password q", "v", "q"),
        (f"machine {HOST} password p", "v", "p"),
        (f"machine {HOST} login u password p\ndefault login v password q", "v", "q"),
        (f"machine {HOST} login v", "v", ""),
    ],
)
def test_the_password_of_a_user(text: str, user: str, expected: str) -> None:
    assert Netrc.parse(text).find(HOST, user) == Basic(user, expected)


def test_a_user_that_is_not_there() -> None:
    assert Netrc.parse(f"machine {HOST} login U password p").find(HOST, "u") is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('machine h login "hunter2\npassword p', 1),
        ('machine h\nlogin "hunter2\\"', 2),
        ('machine h\nlogin "hunter2"x', 2),
        ("machine h login u password", 1),
        ("machine h\n\nlogin # hunter2\nmachine", 4),
        ("macdef", 1),
        ("machine h login u password hunter2\udcff", 1),
    ],
)
def test_malformed(text: str, line: int) -> None:
    with pytest.raises(NetrcError) as caught:
        Netrc.parse(text)
    assert caught.value.facts["line"] == line
    assert isinstance(caught.value, ConfigError)
    assert "hunter2" not in f"{caught.value!r} {caught.value} {caught.value.hint}"


def test_words_that_mean_nothing_are_counted() -> None:
    assert Netrc.parse("machine h password correct horse battery\n x").passed_over == (1, 2)


def test_nothing_secret_is_shown() -> None:
    netrc = Netrc.parse("machine h login hunter2 password hunter2")
    assert netrc.entries == (Entry("h", "hunter2", "hunter2"),)
    assert "hunter2" not in repr(netrc)
    assert "hunter2" not in repr(Netrc.parse("machine h password hunter2").find("h"))


def test_a_large_file_takes_no_time() -> None:
    lines = (f"machine h{n}.example login u{n} password p{n}" for n in range(10_000))
    assert Netrc.parse("\n".join(lines)).find("h9999.example") == Basic("u9999", "p9999")
