"""Settings: what is refused, in which words, and what the others mean."""

from __future__ import annotations

from typing import Any

import pytest

from dbtrun.connection.hosts import Hosts
from watcher.settings import InvalidSetting, Settings


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"listen": "8080"}, "--listen is '8080': write HOST:PORT"),
        ({"listen": "a:99999"}, "--listen is 'a:99999': write HOST:PORT"),
        ({"log_level": "loud"}, "--log-level is 'loud': it is one of debug, info, warning, error."),
        ({"log_format": "xml"}, "--log-format is 'xml': it is one of json, text."),
        ({"requests_per_minute": 0}, "--requests-per-minute is 0: it must be a number greater than 0."),
        ({"feed_interval_seconds": -1.0}, "--feed-interval-seconds is -1.0: it must be a number greater than 0."),
        ({"submit_window_seconds": float("nan")}, "--submit-window-seconds is nan: it must be a number greater than"),
        ({"feed_interval_seconds": float("inf")}, "--feed-interval-seconds is inf: it must be a number greater than"),
        ({"quiet_period_seconds": float("nan")}, "--quiet-period-seconds is nan: it must be at least"),
        ({"listen": "a:\N{SUPERSCRIPT TWO}"}, "--listen is 'a:\N{SUPERSCRIPT TWO}': write HOST:PORT"),
        ({"webhooks_listen": "8081"}, "--webhooks-listen is '8081': write HOST:PORT"),
        (
            {"namespaces": "team-a,Team_B"},
            "--namespaces has 'Team_B', which is not a valid namespace name: write names",
        ),
        ({"namespaces": "team-*"}, "--namespaces has 'team-*', which is not a valid namespace name: write names"),
        ({"connection_secret": "A/b"}, "--connection-secret is 'A/b': write lower-case letters, digits,"),
        ({"connection_secret": "a", "connection_dir": "b"}, "--connection-secret and --connection-dir are both set:"),
        ({"namespace_weights": "team-a"}, "--namespace-weights has 'team-a': write NAMESPACE=WEIGHT with a weight"),
        ({"namespace_weights": "team-a=0"}, "--namespace-weights has 'team-a=0': write NAMESPACE=WEIGHT with a weight"),
        ({"connection_projects": "team-a"}, "--connection-projects has 'team-a': write NAMESPACE=ID+ID once"),
        ({"connection_projects": "a=1;2"}, "--connection-projects has 'a=1;2': write NAMESPACE=ID+ID once"),
        ({"connection_projects": "a=1,a=2"}, "--connection-projects has 'a=2': write NAMESPACE=ID+ID once"),
        (
            {"connection_namespaces": "a,*"},
            "--connection-namespaces has '*', which is not a valid namespace name: write",
        ),
        ({"lease_name": "a/b"}, "--lease-name is 'a/b': write lower-case letters"),
        ({"lease_seconds": 0}, "--lease-seconds is 0: it must be at least 1."),
        ({"connection_hosts": ""}, "--connection-hosts is '': write domains in lower case"),
        (
            {"connection_hosts": "https://dbt.com"},
            "--connection-hosts is 'https://dbt.com': write domains in lower case",
        ),
        ({"quiet_period_seconds": 59.0}, "--quiet-period-seconds is 59: it must be at least"),
    ],
)
def test_a_bad_setting_is_one_sentence_that_names_it(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSetting) as refused:
        Settings(**wrong)
    assert str(refused.value).startswith(words)
    assert "\n" not in str(refused.value)


def test_no_namespaces_means_the_own_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_NAMESPACE", "data")
    settings = Settings()
    assert settings.served_namespaces == ("data",)
    assert settings.default_connection_serves("data")
    assert not settings.default_connection_serves("other")


def test_a_star_means_all_namespaces() -> None:
    settings = Settings(namespaces="*", connection_namespaces="*")
    assert settings.served_namespaces == ()
    assert settings.default_connection_serves("any")


def test_only_dbt_clouds_hosts_are_allowed_unless_others_are_set() -> None:
    assert Settings().hosts == Hosts(("getdbt.com", "dbt.com"), loopback=False)
    own = Settings(connection_hosts="corp.example, *", loopback_connections=True)
    assert own.hosts == Hosts(("corp.example", "*"), loopback=True)


def test_an_address_may_be_ipv6_or_name_no_host() -> None:
    assert Settings(listen="[::1]:80").address == ("::1", 80)
    assert Settings(listen=":80").address == ("", 80)


def test_weights_are_read_by_namespace() -> None:
    assert Settings(namespace_weights="team-a=3, team-b=2").weights == {"team-a": 3, "team-b": 2}
    assert Settings().weights == {}


def test_projects_are_limited_by_namespace_and_a_star_stands_for_the_others() -> None:
    settings = Settings(connection_projects="team-a=101+70403103937001, team-b=")
    assert settings.projects_of("team-a") == frozenset({101, 70403103937001})
    assert settings.projects_of("team-b") == frozenset(), "an entry without a project allows none"
    assert settings.projects_of("team-c") is None, "no limit"
    assert Settings(connection_projects="*=7").projects_of("team-c") == frozenset({7})
    assert Settings().projects_of("team-a") is None
