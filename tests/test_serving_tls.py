"""A server that speaks https, with a certificate of its own."""

import http.client
import shutil
import ssl
import subprocess

import openai
import pytest

from mmlm.cli import main
from mmlm.serving.run import Place
from support.serving import serving

SUBJECT = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A certificate and its key, in two files and in one; the key of another; the key under a password."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl: apt-get install openssl")
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*given: str) -> None:
        subprocess.run(["openssl", *given], check=True, capture_output=True, cwd=folder)

    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for name in ("own", "other"):
        openssl("req", "-x509", *curve, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2", *SUBJECT)
    openssl("pkey", "-in", "own.key", "-out", "locked.key", "-aes256", "-passout", "pass:secret")
    (folder / "both.pem").write_text((folder / "own.pem").read_text() + (folder / "own.key").read_text())
    (folder / "text.pem").write_text("no certificate")
    return folder


def nothing():
    raise AssertionError("a list of models loads none")


@pytest.mark.parametrize("names", [("own.pem", "own.key"), ("both.pem", None)])
def test_who_trusts_the_certificate_is_answered_and_plain_http_is_not(files, names):
    certificate, key = (name and str(files / name) for name in names)
    with serving({"nano": nothing}, place=Place(tls_certificate=certificate, tls_key=key)) as server:
        assert server.url.startswith("https://")
        trusting = openai.DefaultHttpxClient(verify=ssl.create_default_context(cafile=files / "own.pem"))
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", http_client=trusting) as client:
            assert [model.id for model in client.models.list()] == ["nano"]
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            with pytest.raises(openai.APIConnectionError) as caught:
                client.models.list()
            assert "certificate verify failed" in str(caught.value.__cause__)
        link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        with pytest.raises((http.client.HTTPException, OSError)):
            link.request("GET", "/health")
            link.getresponse()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--tls-key", "own.key"], "--tls-certificate"),
        (["--tls-certificate", "gone.pem"], "gone.pem: there is no such file"),
        (["--tls-certificate", "own.pem", "--tls-key", "gone.key"], "gone.key: there is no such file"),
        (["--tls-certificate", "own.pem"], "own.pem: not a certificate and its private key"),
        (["--tls-certificate", "text.pem", "--tls-key", "own.key"], "not a certificate and its private key"),
        (["--tls-certificate", "own.pem", "--tls-key", "text.pem"], "not a certificate and its private key"),
        (["--tls-certificate", "own.pem", "--tls-key", "other.key"], "other.key is the key of another certificate"),
        (["--tls-certificate", "own.pem", "--tls-key", "locked.key"], "openssl pkey"),
    ],
)
def test_wrong_files_are_told_before_a_model_is_loaded(files, monkeypatch, capsys, given, told):
    monkeypatch.setattr("mmlm.serving.run.serve", lambda *_, **__: pytest.fail("it serves"))
    paths = [name if name.startswith("--") else str(files / name) for name in given]
    assert main(["serve", "nano", *paths]) != 0
    error = capsys.readouterr().err
    assert told in error and len(error.splitlines()) == 1


def test_a_proxy_that_would_speak_plain_http_is_refused(files, monkeypatch, capsys):
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
    assert main(["serve", "nano", "--ray", "--tls-certificate", str(files / "both.pem")]) != 0
    assert "RAY_SERVE_ENABLE_HA_PROXY" in capsys.readouterr().err
