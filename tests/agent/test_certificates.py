"""The certificates of the RPC are refused before anything starts, with what is wrong, where, and what to do."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import ssl
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from serfmp.agent.certificates import FILE_LIMIT, days_left, describe, read_certificates, server_context
from serfmp.agent.config import AgentConfig
from serfmp.agent.files import SettingError
from serfmp.cli.main import main
from serfmp.doctor import host
from serfmp.doctor.finding import Status
from tests.harness.certificates import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "tls")


@pytest.fixture
def good(authority: Authority) -> tuple[str, str]:
    return authority.issue("agent", "127.0.0.1")


def fault(cert: str, key: str, ca: str = "") -> tuple[str, str]:
    with pytest.raises(SettingError) as caught:
        read_certificates(cert, key, ca, pytest.fail)
    return caught.value.key, str(caught.value)


def test_what_was_read_serves_though_the_files_are_gone(authority: Authority, good: tuple[str, str]) -> None:
    chained = Path(good[0])
    chained.write_bytes(b"Some words.\n" + chained.read_bytes() + Path(authority.ca).read_bytes())
    found = read_certificates(*good, authority.ca, pytest.fail)
    assert found.identity.count(b"BEGIN CERTIFICATE") == 2
    assert b"Some words" not in found.identity
    for path in (*good, authority.ca):
        Path(path).unlink()
    context = server_context(found)
    assert [entry["subject"] for entry in context.get_ca_certs()] == [((("commonName", "authority"),),)]


def test_each_fault_is_named_with_setting_file_and_what_to_do(
    authority: Authority, good: tuple[str, str], tmp_path: Path
) -> None:
    cert, key = good
    none = str(tmp_path / "none")
    assert fault(none, key) == ("rpc_tls_cert", f"rpc_tls_cert: open {none}: no such file or directory")
    assert fault(cert, none) == ("rpc_tls_key", f"rpc_tls_key: open {none}: no such file or directory")
    assert fault(cert, key, none) == ("rpc_tls_ca", f"rpc_tls_ca: open {none}: no such file or directory")
    assert fault(key, key) == ("rpc_tls_cert", f"rpc_tls_cert: '{key}' holds no certificate in PEM that can be read")
    assert fault(cert, cert) == ("rpc_tls_key", f"rpc_tls_key: '{cert}' holds no private key in PEM that can be read")
    assert fault(cert, key, key)[1].startswith(f"rpc_tls_ca: '{key}' holds no certificate")
    other = authority.issue("other")
    assert f"rpc_tls_key: the key in '{other[1]}' does not belong to the certificate" in fault(cert, other[1])[1]
    hidden = authority.issue("hidden", passphrase=b"secret")
    assert "has a passphrase, which an agent cannot ask for" in fault(*hidden)[1]
    assert "has expired on " in fault(*authority.issue("old", ends=timedelta(hours=-1)))[1]
    assert "wait, or correct the clock" in fault(*authority.issue("early", begins=timedelta(hours=1)))[1]
    large = tmp_path / "large"
    large.write_bytes(bytes(FILE_LIMIT + 1))
    assert fault(str(large), key)[1] == f"rpc_tls_cert: '{large}' has more than {FILE_LIMIT} bytes"
    broken = tmp_path / "broken"
    broken.write_text(Path(cert).read_text().replace("M", "!", 1))
    assert fault(str(broken), key)[0] == "rpc_tls_cert"


def test_what_is_odd_is_warned_of(authority: Authority, good: tuple[str, str]) -> None:
    warnings: list[str] = []
    cert, key = good
    Path(key).chmod(0o640)
    read_certificates(cert, key, "", warnings.append)
    assert warnings == []
    Path(key).chmod(0o644)
    read_certificates(cert, key, "", warnings.append)
    assert warnings == [
        f"==> Warning: the private key '{key}' can be read or written by everybody on this host: chmod o= '{key}'"
    ]
    soon = authority.issue("soon", ends=timedelta(days=3, hours=1))
    warnings.clear()
    read_certificates(*soon, "", warnings.append)
    assert warnings == [
        f"==> Warning: the RPC's certificate '{soon[0]}' expires in 3 days: renew it, and reload the agent"
    ]
    assert days_left(soon[0]) == 3


def test_certificates_are_described_without_their_key(good: tuple[str, str]) -> None:
    found = read_certificates(*good, "", pytest.fail)
    text = describe(found.identity)
    assert text.startswith("'CN=agent' (serial ")
    assert ", until 20" in text
    assert describe(b"") == "-"
    config = AgentConfig("n", rpc_tls_identity=found.identity)
    assert "PRIVATE" not in repr(config)
    assert config.to_plain()["rpc_tls_identity"] == found.identity
    assert config.to_plain("worker")["rpc_tls_identity"] == b""


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the program openssl")
def test_the_recipe_of_the_documentation_makes_certificates_that_serve(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/configuration.md").read_text()
    recipes = re.findall(r"<!-- recipe: certificates -->\n```sh\n(.*?)```", text, flags=re.DOTALL)
    subprocess.run(["sh", "-ec", *recipes], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    cert, key, ca = (str(tmp_path / name) for name in ("agent.pem", "agent.key", "ca.pem"))
    server = server_context(read_certificates(cert, key, ca, pytest.fail))
    client = ssl.create_default_context(cafile=ca)
    client.load_cert_chain(cert, key)
    for context in (server, client):
        context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default of later Pythons
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    both = [
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname="web1.example.com"),
    ]
    for side in (both[1], both[0], both[1], both[0]):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    assert [side.version() for side in both] == ["TLSv1.3", "TLSv1.3"]


def agent(*flags: str) -> int:
    return main(["agent", "-node=n", "-bind=127.0.0.1", "-check", *flags])


def test_check_tells_the_place_of_what_is_wrong(
    authority: Authority, good: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.json"

    def told(**content: Any) -> str:
        file.write_text(json.dumps(content, indent=1))
        assert agent(f"-config-file={file}") == 1
        return capsys.readouterr().out

    cert, key = good
    other = authority.issue("other")
    out = told(rpc_tls_cert=cert, rpc_tls_key=other[1])
    assert out.startswith("==> rpc_tls_key: the key in ")
    assert out.endswith(f"({file}:3)\n")
    assert told(rpc_tls_cert=cert) == (f"==> rpc_tls_cert needs rpc_tls_key, too: the path of a file ({file}:2)\n")
    assert told(rpc_tls_key=key).startswith("==> rpc_tls_key needs rpc_tls_cert")
    assert told(rpc_tls_ca=authority.ca).startswith("==> rpc_tls_ca needs rpc_tls_cert")
    assert "give an agent host:port, with rpc_tls_cert and rpc_tls_key" in told(rpc_addr="tls://127.0.0.1:7373")


def test_check_shows_the_keys(authority: Authority, good: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    cert, key = good
    assert agent("-format=json", f"-rpc-tls-cert={cert}", f"-rpc-tls-key={key}", f"-rpc-tls-ca={authority.ca}") == 0
    out = capsys.readouterr().out
    shown = json.loads(out)
    assert shown["rpc_tls_cert"] == {"value": cert, "origin": "flag"}
    assert shown["rpc_tls_key"] == {"value": key, "origin": "flag"}
    assert "PRIVATE" not in out


def test_only_certificates_of_clients_replace_a_token(
    authority: Authority, good: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    exposed = ["-rpc-addr=0.0.0.0:7373", f"-rpc-tls-cert={good[0]}", f"-rpc-tls-key={good[1]}"]
    assert agent(*exposed) == 0
    assert "whoever reaches it commands this agent" in capsys.readouterr().out
    assert agent(*exposed, f"-rpc-tls-ca={authority.ca}") == 0
    assert "whoever reaches it" not in capsys.readouterr().out


def test_a_unix_socket_has_no_tls(good: tuple[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = [f"-rpc-addr=unix://{tmp_path}/rpc", f"-rpc-tls-cert={good[0]}", f"-rpc-tls-key={good[1]}"]
    assert agent(*flags) == 0
    assert "speaks without TLS, as on every unix socket: rpc_tls_cert has no effect" in capsys.readouterr().out


def test_doctor_looks_at_what_it_may_read(
    authority: Authority, good: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cert, key = good
    assert host.certificates({}) == []
    (found,) = host.certificates({"rpc_tls_cert": cert, "rpc_tls_key": key, "rpc_tls_ca": authority.ca})
    assert (found.check, found.status, found.seen) == ("rpc-tls", Status.OK, "valid for 29 more days")
    (found,) = host.certificates({"rpc_tls_cert": cert, "rpc_tls_key": authority.issue("other")[1]})
    assert found.status is Status.ERROR
    assert "does not belong to the certificate" in found.seen
    soon, soon_key = authority.issue("soon", ends=timedelta(days=2, hours=1))
    (found,) = host.certificates({"rpc_tls_cert": soon, "rpc_tls_key": soon_key})
    assert (found.status, found.seen) == (Status.WARNING, "valid for 2 more days")
    assert "expires in 2 days" in found.advice
    (found,) = host.certificates({"rpc_tls_cert": "relative.pem", "rpc_tls_key": key})
    assert found.status is Status.SKIPPED
    may_read = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != key and may_read(path, mode))
    (found,) = host.certificates({"rpc_tls_cert": cert, "rpc_tls_key": key})
    assert (found.status, found.seen) == (
        Status.OK,
        f"valid for 29 more days; '{key}' cannot be read by this user, and was not looked at",
    )
