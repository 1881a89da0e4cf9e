"""What people type: home folders and characters that need quotes."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from axialseg.config.typed_values import expand_home, expand_home_typed, quoted


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("data.root=~/x", "data.root=/home/me/x"),
        ("data.root=~", "data.root=/home/me"),
        ("+a/b@c.d=~/x", "+a/b@c.d=/home/me/x"),
        ("a=[~/x,~/y]", "a=[/home/me/x,/home/me/y]"),
        ("a={k:~/x}", "a={k:/home/me/x}"),
        ("a=~/x,~/y", "a=/home/me/x,/home/me/y"),
        ("a='~/x'", "a='~/x'"),  # the config's turn
        ("~data.classes", "~data.classes"),
        ("~model.net=3", "~model.net=3"),
        ("a=x~/y", "a=x~/y"),
        ("a=~you/y", "a=~you/y"),
        ("-m", "-m"),
    ],
)
def test_home_folders_that_the_shell_left(
    monkeypatch: pytest.MonkeyPatch, typed: str, expected: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_home_typed([typed]) == [expected]
    monkeypatch.setenv("HOME", "/home/my name")
    assert expand_home_typed([typed]) == [typed]


def test_home_folders_in_a_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/my name")
    content = {
        "a": "~/x",
        "b": ["~/y", {"c": "~/z", "d": None}],
        "e": "${a}",
        "f": "???",
        "g": "x~/y",
        "h": 3,
        "i": None,
    }
    cfg = OmegaConf.create(content)
    OmegaConf.set_struct(cfg, True)
    expand_home(cfg)
    home = "/home/my name"
    assert cfg.a == cfg.e == f"{home}/x"
    assert OmegaConf.to_container(cfg.b) == [f"{home}/y", {"c": f"{home}/z", "d": None}]
    assert OmegaConf.is_missing(cfg, "f")
    assert (cfg.g, cfg.h, cfg.i) == ("x~/y", 3, None)


@pytest.mark.parametrize(
    "value",
    [
        *(
            "/a=b",
            "/a b",
            "/日本/x",
            "/it's",
            '/say "x"',
            "/both ' and \"",
            "/a#b&c",
            "a(b)",
            "~you/x",
        ),
        *("C:\\data\\", "/a\\b", "$HOME/x", "/a;b|c", "/ä ö=ü", "a,b"),
    ],
)
def test_the_quoted_form_gives_exactly_what_was_typed(value: str) -> None:
    typed = quoted(f"data.root={value}")
    (argument,) = shlex.split(typed)
    override = OverridesParser.create().parse_override(argument)
    assert override.key_or_group == "data.root"
    assert override.value() == value


@pytest.mark.parametrize("line", ["x", "=x", "a=[b=c]", "a={b", "a='x"])
def test_no_quoted_form(line: str) -> None:
    assert quoted(line) is None
