"""Configuration files: what is read, in which order, how it merges, and what is refused with which words."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serfmp.agent.files import KEYS, Settings, decode, read_file, read_sources
from serfmp.agent.toml_lines import toml_lines
from serfmp.errors import UserError


def write(path: Path, content: Any) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_a_directory_is_read_in_byte_order_one_level_deep(tmp_path: Path) -> None:
    write(tmp_path / "b.json", {"node_name": "b", "start_join": ["3"]})
    write(tmp_path / "C.json", {"node_name": "c", "start_join": ["1"], "tags": {"k": "1", "l": "1"}})
    write(tmp_path / "a.toml", 'start_join = ["2"]\ntags = {k = "2"}\n')
    write(tmp_path / "ignored.txt", "no json")
    (tmp_path / "x.json").mkdir()
    settings = read_sources([str(tmp_path)])
    assert settings.values == {"node_name": "b", "start_join": ["1", "2", "3"], "tags": {"k": "2", "l": "1"}}
    assert settings.origins["node_name"].endswith("b.json")
    assert [Path(name).name for name in settings.origins["start_join"].split(", ")] == ["C.json", "a.toml:1", "b.json"]


def test_later_ones_win_but_nothing_empty_and_no_false() -> None:
    settings = Settings()
    settings.merge(
        "one", {"node_name": "a", "replay_on_join": True, "broadcast_timeout": 3.0, "enable_compression": True}
    )
    settings.merge(
        "two", {"node_name": "", "replay_on_join": False, "broadcast_timeout": 0.0, "enable_compression": False}
    )
    assert settings.values == {
        "node_name": "a",
        "replay_on_join": True,
        "broadcast_timeout": 3.0,
        "enable_compression": False,
    }
    assert settings.origins == {
        "node_name": "one",
        "replay_on_join": "one",
        "broadcast_timeout": "one",
        "enable_compression": "two",
    }


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "EOF"),
        ("  \n", "EOF"),
        ('{"node_name": "x"', "unexpected EOF"),
        ("[]", "'' expected a map, got 'slice'"),
        ('"x"', "'' expected a map, got 'string'"),
        ("{// a\n}", "invalid character '/' looking for beginning of object key string"),
        ({"foo": 1, "bar": 2}, "1 error(s) decoding:\n\n* '' has invalid keys: bar, foo"),
        ({"log_level": "x", "LOG_LEVEL": "y"}, "1 error(s) decoding:\n\n* '' has invalid keys: LOG_LEVEL"),
        (
            {"node_name": 5, "leave_on_terminate": "true"},
            (
                "2 error(s) decoding:\n\n"
                "* 'node_name' expected type 'string', got unconvertible type 'float64', value: '5'\n"
                "* 'leave_on_terminate' expected type 'bool', got unconvertible type 'string', value: 'true'"
            ),
        ),
        (
            {"protocol": "5"},
            "1 error(s) decoding:\n\n* 'protocol' expected type 'int', got unconvertible type 'string', value: '5'",
        ),
        (
            {"start_join": "a"},
            "1 error(s) decoding:\n\n* 'start_join': source data must be an array or slice, got string",
        ),
        (
            {"tags": {"a": 1}},
            "1 error(s) decoding:\n\n* 'tags[a]' expected type 'string', got unconvertible type 'float64', value: '1'",
        ),
        ({"retry_interval": "5"}, 'time: missing unit in duration "5"'),
        ({"reconnect_timeout": "-5s"}, "'reconnect_timeout': the duration -5s is negative"),
        ({"event_handlers": ["bogus=x"]}, "Invalid event script: Event 'bogus' invoking 'x'"),
        ({"event_handlers": [{"run": "x", "nice": 99}]}, "event_handlers[0].nice: 99 is not between 0 and 19"),
    ],
)
def test_what_is_wrong_is_told_with_the_file_and_the_key(tmp_path: Path, content: Any, fault: str) -> None:
    path = write(tmp_path / "c.json", content)
    with pytest.raises(UserError) as caught:
        read_file(path)
    assert str(caught.value) == f"Error decoding '{path}': {fault}"


@pytest.mark.parametrize(
    ("content", "values"),
    [
        ("null", {}),
        ("{} garbage", {}),
        ('{"Log_Level": "debug"}', {"log_level": "debug"}),
        ('{"node_name": null}', {}),
        ('{"query_size_limit": 4.5}', {"query_size_limit": 4}),
        ('{"node_name": "a", "node_name": "b"}', {"node_name": "b"}),
        ('{"broadcast_timeout": "1m"}', {"broadcast_timeout": 60.0}),
        ('{"event_handlers": ["x.sh", {"run": ["a"]}]}', {"event_handlers": ["x.sh", {"run": ["a"]}]}),
    ],
)
def test_what_serf_takes_is_taken(tmp_path: Path, content: str, values: dict[str, Any]) -> None:
    assert read_file(write(tmp_path / "c.json", content)) == (values, {})


TOML = """# lines are counted
node_name = "n"  # not this: label = "x"
start_join = [
  "a]",  # ]
  "b",
]
label = '''
[mdns]
log_level = "no"
'''
Retry_Interval = "5s"
mdns.disable_ipv4 = true

[tags]
role = "web"

[mdns]
interface = "lo"
[[event_handlers]]
run = "x"
[[event_handlers]]
run = "y"
"""


def test_the_lines_of_a_toml_file_are_those_of_its_statements(tmp_path: Path) -> None:
    text = TOML.replace("mdns.disable_ipv4 = true", "protocol = 5").replace("\n", "\r\n")
    path = tmp_path / "c.toml"
    path.write_bytes(text.encode())
    values, lines = read_file(str(path))
    expected = {"node_name": 2, "start_join": 3, "label": 7, "retry_interval": 11, "protocol": 12, "tags": 14}
    expected |= {"mdns": 17, "mdns.interface": 18, "event_handlers": 19}
    assert {key: line for key, line in lines.items() if key in expected} == expected
    assert values["mdns.interface"] == "lo"
    origins = read_sources([str(path)]).origins
    assert (origins["start_join"], origins["mdns.interface"]) == (f"{path}:3", f"{path}:18")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (
            'a = "x"\nnode_name = 5\n',
            (
                "2 error(s) decoding:\n\n* 'node_name' expected type 'string', got unconvertible "
                "type 'float64', value: '5' (line 2)\n* '' has invalid keys: a (line 1)"
            ),
        ),
        (
            "[mdns]\n\nInterface = 5\nfoo = 1\n",
            (
                "2 error(s) decoding:\n\n* 'mdns.interface' expected type 'string', got "
                "unconvertible type 'float64', value: '5' (line 3)\n* '' has invalid keys: mdns.foo (line 4)"
            ),
        ),
        ("\nretry_interval = '5'\n", 'time: missing unit in duration "5" (line 2)'),
        ("\n[[event_handlers]]\nrun = 'x'\nnice = 99\n", "event_handlers[0].nice: 99 is not between 0 and 19 (line 2)"),
        ("node_name = 'a'\nworkers =\n", "Invalid value (at line 2, column 10)"),
        ("node_name = 'a'\nnode_name = 'b'\n", "Cannot overwrite a value (at line 2, column 16)"),
        ("node_name = 'a'\nlabel = '\udcff'\n", "it is no UTF-8 (line 2)"),
        (
            "node_name = 5",
            (
                "1 error(s) decoding:\n\n* 'node_name' expected type 'string', got unconvertible type "
                "'float64', value: '5'"
            ),
        ),
    ],
)
def test_what_is_wrong_with_toml_is_told_with_its_line(tmp_path: Path, content: str, fault: str) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError) as caught:
        read_file(str(path))
    assert str(caught.value) == f"Error decoding '{path}': {fault}"


STATEMENTS = st.sampled_from(
    [
        *("# a comment [x]", "", "KEY = 1", 'KEY = "]"', "KEY = [ # ]\n 1,\n\n [2], ]", 'KEY = """\nx = 1\n[y]"""'),
        *("KEY = '''\n\"\"\"\n'''", "KEY = {a = [1, 2]}", '"KEY" = 1', "KEY = 2026-11-28"),
    ]
)


@given(st.lists(STATEMENTS, max_size=12))
def test_whatever_stands_between_the_line_of_a_key_is_where_it_begins(statements: list[str]) -> None:
    expected, text = {}, ""
    for number, statement in enumerate(statements):
        if "KEY" in statement:
            expected[f"k{number}"] = text.count("\n") + 1
        text += statement.replace("KEY", f"k{number}") + "\n"
    assert tomllib.loads(text).keys() == expected.keys()
    assert {key: line for key, line in toml_lines(text).items() if "." not in key} == expected


def test_a_list_over_thousands_of_lines_costs_no_more_than_the_limit() -> None:
    text = "a = 1\nb = [\n" + '["x"],\n' * 50_000 + "]\nc = 1\n"
    assert toml_lines(text) == {"a": 1}


TWO_LINES = """{
  "node_name": "a", "Tags": {"k": "}{,:"},

  "start_join": ["\\"x", {"y": 1}],
  "retry_interval": "5", "other": null
}"""


def test_values_and_mistakes_of_a_file_of_several_lines_have_their_lines(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_file(write(tmp_path / "c.json", TWO_LINES))
    assert str(caught.value).splitlines()[2:] == [
        (
            "* 'start_join[1]' expected type 'string', got unconvertible type 'map[string]interface {}', "
            "value: '{'y': 1}' (line 4)"
        ),
        "* '' has invalid keys: other (line 5)",
    ]
    good = TWO_LINES.replace(', {"y": 1}', "").replace(', "other": null', "")
    with pytest.raises(UserError, match=r'time: missing unit in duration "5" \(line 5\)$'):
        read_file(write(tmp_path / "c.json", good))
    path = write(tmp_path / "c.json", good.replace('"5"', '"5s"'))
    origins = read_sources([path, write(tmp_path / "d.json", {"start_join": ["z"]})]).origins
    assert origins["node_name"] == f"{path}:2"
    assert origins["tags"] == f"{path}:2"
    assert origins["start_join"] == f"{path}:4, {tmp_path / 'd.json'}"


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError) as caught:
        read_sources(["nofile.json"])
    assert str(caught.value) == "Error reading 'nofile.json': open nofile.json: no such file or directory"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*KEYS, "other"]), JSON, max_size=5))
def test_any_content_is_taken_or_refused_with_a_text(content: dict[str, Any]) -> None:
    try:
        values = decode(content)
    except UserError:
        return
    assert values.keys() <= {key for key, value in content.items() if value is not None}


@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "node_name": st.text(max_size=2),
                "replay_on_join": st.booleans(),
                "start_join": st.lists(st.text(max_size=1), max_size=2),
                "tags": st.dictionaries(st.sampled_from("ab"), st.text(max_size=1)),
                "workers": st.integers(0, 2),
            },
        ),
        max_size=4,
    ),
    st.integers(0, 4),
)
def test_merging_is_associative(sources: list[dict[str, Any]], cut: int) -> None:
    def merged(parts: list[dict[str, Any]]) -> Settings:
        settings = Settings()
        for number, part in enumerate(parts):
            settings.merge(str(number), part)
        return settings

    whole = merged(sources)
    head = merged(sources[:cut])
    for part in sources[cut:]:
        head.merge("x", part)
    assert head.values == whole.values
