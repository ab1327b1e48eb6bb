"""Files of certificates: read, refused, and read again when they change."""

import datetime as dt
from pathlib import Path

import pytest

from doubles.certificates import new_authority, write_certificate
from hortator.runtime.certificate_authority import CertificateAuthority, Issued
from hortator.runtime.certificate_facts import read_certificates
from hortator.runtime.certificates import CertificateError, CertificateFiles, TlsSettings
from hortator.runtime.identity import Identity
from hortator.runtime.settings import Settings, SettingsConfigDict, SettingsError


@pytest.fixture
def authority():
    return new_authority()


@pytest.fixture
def settings(tmp_path, authority):
    return write_certificate(tmp_path / "scheduler", "scheduler", authority=authority)


class ASettings(Settings):
    model_config = SettingsConfigDict(env_prefix="A_")
    tls: TlsSettings = TlsSettings()


def test_all_three_files_are_wanted_or_none(monkeypatch):
    assert not ASettings.load().tls.is_on
    monkeypatch.setenv("A_TLS__CERT_FILE", "/tls.crt")
    with pytest.raises(SettingsError, match="key_file and ca_file missing"):
        ASettings.load()


def test_a_certificate_says_whose_it_is(settings):
    current = CertificateFiles(settings).current()
    assert current.identity.uri == "spiffe://hortator/ns/svc/scheduler"
    assert current.generation == 1


def test_a_new_set_is_used_once_it_is_whole(settings, tmp_path, authority):
    files = CertificateFiles(settings)
    first = files.current()
    (tmp_path / "other").mkdir()
    renewed = write_certificate(tmp_path / "other", "scheduler", authority=authority)
    Path(renewed.cert_file).replace(settings.cert_file)  # the key comes later
    assert files.current() is first
    Path(renewed.key_file).replace(settings.key_file)
    current = files.current()
    assert current.generation == 2
    assert current.key_pem != first.key_pem
    assert files.current() is current


def test_a_set_that_disappears_or_is_somebody_elses_leaves_the_old_one_in_use(settings, tmp_path, authority):
    files = CertificateFiles(settings)
    first = files.current()
    Path(settings.cert_file).rename(tmp_path / "away")
    assert files.current() is first
    (tmp_path / "away").rename(settings.cert_file)
    assert files.current() is first
    write_certificate(tmp_path / "scheduler", "worker", authority=authority)
    assert files.current() is first
    write_certificate(tmp_path / "scheduler", "scheduler", authority=authority)
    assert files.current().generation == 2


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("cert_file", b"no PEM", "tls.crt: no certificate in PEM"),
        ("key_file", b"no PEM", "tls.key: no private key in PEM without a password"),
        ("ca_file", b"", "ca.crt: no certificate in PEM"),
        ("cert_file", None, "tls.crt: No such file or directory"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(settings, file, content, message):
    path = getattr(settings, file)
    if content is None:
        Path(path).unlink()
    else:
        Path(path).write_bytes(content)
    with pytest.raises(CertificateError) as caught:
        CertificateFiles(settings)
    assert str(caught.value).endswith(message)
    assert str(caught.value).startswith("/")


def test_a_key_of_another_certificate_is_refused(settings, tmp_path, authority):
    other = write_certificate(tmp_path / "other", "scheduler", authority=authority)
    with pytest.raises(CertificateError, match=r"other/tls.key: not the key of .*scheduler/tls.crt"):
        CertificateFiles(settings.model_copy(update={"key_file": other.key_file}))


def test_a_certificate_without_our_uri_is_refused(settings, authority):
    Path(settings.cert_file).write_bytes(authority.issued.cert_pem)
    Path(settings.key_file).write_bytes(authority.issued.key_pem)
    with pytest.raises(CertificateError, match=r"it has no URI; wanted among its URIs: spiffe://hortator/"):
        CertificateFiles(settings)


def test_an_authority_is_kept_as_pem(authority):
    again = CertificateAuthority.load(authority.issued)
    assert again.issued == authority.issued
    other = new_authority()
    with pytest.raises(CertificateError, match="not the key of its certificate"):
        CertificateAuthority.load(Issued(cert_pem=authority.issued.cert_pem, key_pem=other.issued.key_pem))
    with pytest.raises(CertificateError, match="not PEM"):
        CertificateAuthority.load(Issued(cert_pem=b"x", key_pem=b"y"))


def test_several_authorities_are_kept_in_two_files(authority):
    both = [authority, new_authority()]
    certs, keys = (b"".join(getattr(one.issued, part) for one in both) for part in ("cert_pem", "key_pem"))
    assert [one.issued for one in CertificateAuthority.load_all(certs, keys)] == [one.issued for one in both]
    with pytest.raises(CertificateError, match="2 authorities with 1 keys"):
        CertificateAuthority.load_all(certs, both[0].issued.key_pem)
    with pytest.raises(CertificateError, match="not the key of its certificate"):
        CertificateAuthority.load_all(certs, both[1].issued.key_pem + both[0].issued.key_pem)


def test_no_two_authorities_have_one_name_and_a_long_one_is_cut():
    """Of two with one name a peer that trusts both could try the wrong one."""
    names = [read_certificates(new_authority("a" * 63).issued.cert_pem)[0].subject for _ in range(2)]
    assert names[0] != names[1]


def test_a_certificate_says_whose_it_is_without_its_key(authority):
    identity = Identity(namespace="ns", service="svc", component="gateway")
    begins_at = dt.datetime(2026, 11, 28, tzinfo=dt.UTC)
    issued = authority.issue(identity, now=begins_at, days=90, hosts=("llm.example.com", "192.0.2.7"))
    (said,) = read_certificates(issued.cert_pem)
    assert said.uris == (identity.uri,)
    assert said.hosts == {identity.server_name, "llm.example.com", "192.0.2.7"}
    assert said.issuer == read_certificates(authority.issued.cert_pem)[0].subject
    assert (said.ends_at - begins_at).days == 90
    assert "PRIVATE" not in repr(issued)
    for pem in (b"", b"x", issued.key_pem):
        with pytest.raises(CertificateError, match="no certificate in PEM"):
            read_certificates(pem)
