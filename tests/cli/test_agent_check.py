"""`serfmp agent -check`: what an agent would run with, where it comes from, and what is odd about it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serfmp.cli.main import main

WITHOUT_DEFAULT = {
    *(
        "advertise",
        "discover",
        "encrypt_key",
        "interface",
        "keyring_file",
        "label",
        "log_file",
        "mdns.interface",
        "snapshot_path",
    ),
    *(
        "metrics_addr",
        "monitor_group",
        "rpc_tls_ca",
        "rpc_tls_cert",
        "rpc_tls_key",
        "statsd_addr",
        "statsite_addr",
        "syslog_socket",
        "tags_file",
    ),
}


def test_json_is_json_and_what_is_odd_stands_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.json"
    file.write_text('{"role": "web", "rejoin_after_leave": true, "rpc_auth": "sekrit", "node_name": "n"}')
    arguments = ["agent", f"-config-file={file}", "-bind=127.0.0.1", "-check"]
    assert main([*arguments, "-format=json"]) == 0
    shown = capsys.readouterr()
    values = json.loads(shown.out)
    assert values["role"] == {"value": "web", "origin": str(file)}
    assert values["bind"] == {"value": "127.0.0.1", "origin": "flag"}
    assert values["rpc_auth"] == {"value": "(secret)", "origin": str(file)}
    assert values["workers"] == {"value": 2, "origin": "default"}
    assert values["reconnect_timeout"] == {"value": 86400.0, "origin": "default"}
    assert values["snapshot_path"] == {"value": None, "origin": "default"}
    warnings = [
        "==> Deprecation warning: 'Role' has been replaced with 'Tags'",
        "==> Warning: 'RejoinAfterLeave' enabled without snapshot file",
    ]
    assert shown.err.splitlines() == warnings
    assert main(arguments) == 0
    shown = capsys.readouterr()
    rows = shown.out.splitlines()
    assert rows[:2] == warnings
    table = dict(row.split(maxsplit=1) for row in rows[2:])
    assert table["heal_interval"].split() == ["300s", "default"]
    # Only what has no default is shown as nothing.
    assert {key for key, value in table.items() if value.startswith("-")} == WITHOUT_DEFAULT
    assert "sekrit" not in shown.out
    assert shown.err == ""


def test_what_is_wrong_is_told_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "ring.json"
    assert main(["agent", "-node=n", "-bind=127.0.0.1", f"-keyring-file={missing}", "-check", "-format=json"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("==> ")
    assert str(missing) in out
