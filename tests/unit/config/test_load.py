from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nixfetch.config import Config, ConfigError, UnreadableFileError, load_config
from nixfetch.config.settings import DEFAULT_CACHE, DEFAULT_KEY, SETTINGS

if TYPE_CHECKING:
    from collections.abc import Mapping

HOME = {"HOME": "/home/u"}
USER_TOML = "/home/u/.config/nixfetch/config.toml"
SYSTEM_TOML = "/etc/nixfetch/config.toml"
USER_NIX = "/home/u/.config/nix/nix.conf"
SYSTEM_NIX = "/etc/nix/nix.conf"


def configured(
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
) -> Config:
    """What `load` makes of these sources, on a machine that has nothing else."""
    contents = files or {}

    def read(path: Path) -> bytes | None:
        return contents[str(path)].encode() if str(path) in contents else None

    return load_config(flags or {}, HOME | dict(environ or {}), read=read, exists=lambda _: False)


def test_defaults() -> None:
    config = configured()
    assert config.store_root() == "/home/u/.local/share/nixfetch"
    assert config.substituters == (DEFAULT_CACHE,)
    assert config.trusted_keys == (DEFAULT_KEY,)
    assert (config.check_sigs, config.sigs_needed, config.jobs) == (True, 1, None)
    assert (config.connections, config.connect_timeout, config.stall_timeout) == (25, 15, 60)
    assert config.netrc_file == "/etc/nix/netrc"
    assert config.ca_file is None
    assert set(config.origins.values()) == {"default"}
    assert config.skipped == ()


def test_every_setting_has_its_attribute_and_its_origin() -> None:
    fields = {field.name for field in dataclasses.fields(Config)} - {"origins", "skipped"}
    assert fields == {setting.field for setting in SETTINGS} == set(configured().origins)


def test_names_are_unique_in_every_source() -> None:
    nix = [name for setting in SETTINGS for name in setting.nix]
    flags = [setting.flag.key for setting in SETTINGS if setting.flag]
    for names in (nix, flags, [setting.name for setting in SETTINGS]):
        assert len(names) == len(set(names))


SOURCES = [  # what counts least first; each says another number
    ("files", SYSTEM_NIX, "download-attempts = {}", f"{SYSTEM_NIX}:1"),
    ("files", "/etc/xdg/nix/nix.conf", "download-attempts = {}", "/etc/xdg/nix/nix.conf:1"),
    ("files", USER_NIX, "download-attempts = {}", f"{USER_NIX}:1"),
    ("environ", "NIX_CONFIG", "download-attempts = {}", "NIX_CONFIG:1"),
    ("files", SYSTEM_TOML, "download-attempts = {}", SYSTEM_TOML),
    ("files", USER_TOML, "download-attempts = {}", USER_TOML),
    ("files", "/given.toml", "download-attempts = {}", "/given.toml"),
    ("environ", "NIXFETCH_DOWNLOAD_ATTEMPTS", "{}", "NIXFETCH_DOWNLOAD_ATTEMPTS"),
]


@pytest.mark.parametrize("count", range(1, len(SOURCES) + 1))
def test_precedence(count: int) -> None:
    files: dict[str, str] = {}
    environ: dict[str, str] = {}
    for number, (kind, name, text, _) in enumerate(SOURCES[:count], start=10):
        (files if kind == "files" else environ)[name] = text.format(number)
    if "/given.toml" in files:
        environ["NIXFETCH_CONFIG"] = "/given.toml"
    config = configured({}, environ, files)
    assert config.download_attempts == 9 + count
    assert config.origins["download_attempts"] == SOURCES[count - 1][3]


def test_flags_overrule_everything() -> None:
    environ = {"NIXFETCH_JOBS": "2", "NIXFETCH_STORE": "/env"}
    config = configured({"jobs": 3, "store": "rel"}, environ, {USER_TOML: "jobs = 4"})
    assert (config.jobs, config.origins["jobs"]) == (3, "flag --jobs")
    assert (config.store, config.origins["store"]) == ("rel", "flag --store")


def test_a_list_knows_all_its_origins() -> None:
    config = configured(
        {"trusted_key": ["flag-1:F", "two-1:T"]},
        {"NIXFETCH_EXTRA_TRUSTED_KEYS": "env-1:E"},
        {
            SYSTEM_NIX: "\nextra-trusted-public-keys = nix-1:N\n",
            USER_TOML: 'extra-trusted-keys = ["toml-1:T", "nix-1:N"]',
        },
    )
    keys = (DEFAULT_KEY, "nix-1:N", "toml-1:T", "env-1:E", "flag-1:F", "two-1:T")
    assert config.trusted_keys == keys
    assert config.origins["trusted_keys"] == (
        f"default, {SYSTEM_NIX}:2, {USER_TOML}, NIXFETCH_EXTRA_TRUSTED_KEYS, flag --trusted-key"
    )


def test_a_plain_value_forgets_what_was_added_before() -> None:
    files = {
        SYSTEM_NIX: "extra-substituters = https://a\nsubstituters = https://b\n",
        USER_NIX: "extra-substituters = https://c",
    }
    config = configured({}, {}, files)
    assert config.substituters == ("https://b", "https://c")
    assert config.origins["substituters"] == f"{SYSTEM_NIX}:2, {USER_NIX}:1"


def test_from_replaces_and_keys_of_files_are_kept() -> None:
    files = {SYSTEM_NIX: "substituters = https://a\ntrusted-public-keys = a-1:A"}
    config = configured({"from": ["https://x", "https://y?trusted=1"]}, {}, files)
    assert config.substituters == ("https://x", "https://y?trusted=1")
    assert config.trusted_keys == ("a-1:A",)


def test_the_same_cache_is_asked_once() -> None:
    files = {SYSTEM_NIX: f"extra-substituters = {DEFAULT_CACHE}/ https://b https://b?priority=1"}
    assert configured({}, {}, files).substituters == (DEFAULT_CACHE, "https://b")


def test_environment_lists_are_separated_by_blanks() -> None:
    config = configured({}, {"NIXFETCH_FROM": " https://a\thttps://b "})
    assert config.substituters == ("https://a", "https://b")


def test_what_only_nix_can_use_is_skipped_with_a_note() -> None:
    text = (
        "substituters = daemon https://a /mnt ssh://user:pw@host https://b:x https://c?priority=x"
    )
    config = configured({}, {}, {SYSTEM_NIX: text})
    assert config.substituters == ("https://a",)
    assert config.skipped == (
        f"{SYSTEM_NIX}:1: daemon: not a kind of cache that can be read here",
        f"{SYSTEM_NIX}:1: /mnt: to Nix it is a store, not a cache",
        f"{SYSTEM_NIX}:1: ssh://host: not a kind of cache that can be read here",
        f"{SYSTEM_NIX}:1: https://b:x: malformed cache URL",
        f"{SYSTEM_NIX}:1: https://c: unusable parameter",
    )


@pytest.mark.parametrize(
    ("flags", "environ", "files", "origin"),
    [
        ({"from": ["daemon"]}, {}, {}, "flag --from"),
        ({}, {"NIXFETCH_FROM": "ssh://h"}, {}, "NIXFETCH_FROM"),
        ({}, {}, {USER_TOML: 'from = ["local"]'}, USER_TOML),
    ],
)
def test_elsewhere_it_is_an_error(
    flags: dict[str, object], environ: dict[str, str], files: dict[str, str], origin: str
) -> None:
    with pytest.raises(ConfigError, match="not a kind of cache") as caught:
        configured(flags, environ, files)
    assert caught.value.facts["origin"] == origin


def test_a_directory_may_be_a_cache_where_we_are_meant() -> None:
    assert configured({"from": ["/mnt/cache"]}).substituters == ("/mnt/cache",)


def test_zero_means_no_limit() -> None:
    text = (
        "http-connections = 0\nconnect-timeout = 0\nstalled-download-timeout = 0\n"
        "download-attempts = 0\ndownload-speed = 0\n"
    )
    config = configured({}, {}, {SYSTEM_NIX: text})
    assert (config.connections, config.download_attempts) == (128, 1)
    assert (config.connect_timeout, config.stall_timeout, config.bandwidth) == (None,) * 3


def test_rates_of_nix_are_in_kibibytes() -> None:
    config = configured({}, {"NIX_CONFIG": "download-speed = 100"})
    assert (config.bandwidth, config.origins["bandwidth"]) == (102_400, "NIX_CONFIG:1")
    assert configured({"bandwidth": "10M"}, {"NIXFETCH_BANDWIDTH": "5"}).bandwidth == 10 * 2**20


def test_names_of_newer_versions() -> None:
    text = "filetransfer-retry-attempts = 3\nfiletransfer-retry-delay = 7\n"
    config = configured({}, {"NIX_CONFIG": f"{text}filetransfer-retry-max-delay = 9"})
    assert (config.download_attempts, config.retry_delay, config.retry_max_delay) == (3, 7, 9)


def test_defaults_of_nix_that_we_do_better_change_nothing() -> None:
    text = "auto-optimise-store = false\nfsync-store-paths = false\nsubstitute = false\nhttp2 = no"
    assert set(configured({}, {"NIX_CONFIG": text}).origins.values()) == {"default"}


def test_where_it_is_remembered_what_caches_said() -> None:
    assert configured().cache_dir == "/home/u/.cache/nixfetch"
    assert configured({}, {"XDG_CACHE_HOME": "/c"}).cache_dir == "/c/nixfetch"
    assert configured({}, {"NIXFETCH_CACHE_DIR": "/d"}).cache_dir == "/d"
    assert configured({}, {"HOME": ""}).cache_dir is None


def test_flags_that_were_not_given_say_nothing() -> None:
    flags = {"no_check_sigs": False, "json": False, "store": None, "paths": ["x"], "jobs": None}
    assert set(configured(flags).origins.values()) == {"default"}


def test_no_check_sigs() -> None:
    config = configured({"no_check_sigs": True}, {"NIXFETCH_CHECK_SIGS": "true"})
    assert config.check_sigs is False
    assert config.origins["check_sigs"] == "flag --no-check-sigs"
    assert configured({}, {}, {SYSTEM_NIX: "require-sigs = false"}).check_sigs is False


def test_flags_may_be_text() -> None:
    assert configured({"sigs_needed": "2"}).sigs_needed == 2
    with pytest.raises(ConfigError) as caught:
        configured({"sigs_needed": "0"})
    assert caught.value.facts["origin"] == "flag --sigs-needed"
    with pytest.raises(ConfigError):
        configured({"from": "https://a"})


def test_a_malformed_variable_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        configured({}, {"NIXFETCH_JOBS": "many"})
    assert caught.value.facts["origin"] == "NIXFETCH_JOBS"
    assert "'many'" in str(caught.value)


def test_other_and_empty_variables_are_ignored() -> None:
    environ = {"NIXFETCH_TEST_DATA": "/x", "NIXFETCH_JOBS": "", "NIXFETCH_JSON": "1"}
    config = configured({}, environ)
    assert config.jobs is None
    assert config.json is False


def test_the_named_file_must_be_there() -> None:
    for flags, environ, origin in (
        ({"config": "/no.toml"}, {"NIXFETCH_CONFIG": "/other"}, "flag --config"),
        ({}, {"NIXFETCH_CONFIG": "/no.toml"}, "NIXFETCH_CONFIG"),
    ):
        with pytest.raises(ConfigError, match="missing") as caught:
            configured(flags, environ)
        assert caught.value.facts == {"file": Path("/no.toml"), "origin": origin}


def test_the_flag_config_overrules_the_variable() -> None:
    files = {"/a": "jobs = 1", "/b": "jobs = 2"}
    assert configured({"config": "/a"}, {"NIXFETCH_CONFIG": "/b"}, files).jobs == 1


def test_our_own_file_that_may_not_be_read_is_an_error() -> None:
    def read(path: Path) -> bytes | None:
        if path == Path(USER_TOML):
            raise UnreadableFileError("cannot read settings", file=path)
        return None

    with pytest.raises(UnreadableFileError):
        load_config({}, HOME, read=read)


def test_a_file_for_nix_that_may_not_be_read_is_noted() -> None:
    def read(path: Path) -> bytes | None:
        if path == Path(SYSTEM_NIX):
            raise UnreadableFileError("cannot read settings", file=path)
        return None

    assert load_config({}, HOME, read=read).skipped == (f"{SYSTEM_NIX}: cannot read settings",)


def test_without_home_only_the_default_store_is_missing() -> None:
    config = load_config({}, {}, read=lambda _: None)
    with pytest.raises(ConfigError, match="where the store is") as caught:
        config.store_root()
    assert "--store" in str(caught.value.hint)
    assert load_config({"store": "/s"}, {}, read=lambda _: None).store_root() == "/s"
    assert load_config({}, {"XDG_DATA_HOME": "/d"}, read=lambda _: None).store == "/d/nixfetch"
    assert (
        load_config({}, {}, home=Path("/p"), read=lambda _: None).store
        == "/p/.local/share/nixfetch"
    )


def test_certificates() -> None:
    nix = {SYSTEM_NIX: "ssl-cert-file = /nix"}
    both = {"SSL_CERT_FILE": "/ssl", "NIX_SSL_CERT_FILE": "/nix-ssl"}
    assert configured({}, {}, nix).ca_file == "/nix"
    assert configured({}, both, nix).origins["ca_file"] == "NIX_SSL_CERT_FILE"
    assert configured({}, both | {"NIX_SSL_CERT_FILE": ""}, nix).ca_file == "/ssl"
    assert configured({}, both, {USER_TOML: 'ca-file = "/toml"'}).ca_file == "/toml"


def test_the_certificates_of_the_machine_are_the_default() -> None:
    second = "/etc/pki/tls/certs/ca-bundle.crt"
    config = load_config({}, HOME, read=lambda _: None, exists=lambda path: str(path) == second)
    assert (config.ca_file, config.origins["ca_file"]) == (second, "default")


def test_netrc_lies_beside_nix_conf() -> None:
    assert configured({}, {"NIX_CONF_DIR": "/n"}).netrc_file == "/n/netrc"
    assert configured({}, {}, {USER_NIX: "netrc-file = /x"}).netrc_file == "/x"


def test_a_config_is_shown_without_secrets_and_can_be_hashed() -> None:
    config = configured({"from": ["https://u:hunter2@h"]})
    assert "hunter2" not in repr(config)
    assert isinstance(hash(config), int)
