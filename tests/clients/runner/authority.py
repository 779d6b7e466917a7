"""A private authority and a certificate for 127.0.0.1, made by the openssl command line for one run."""

import os
import subprocess
from dataclasses import dataclass

VALID_DAYS = "2"
# Complete, so that no configuration of the system has a say.
REQUEST = """\
[req]
distinguished_name = name
prompt = no
[name]
CN = {name}
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = IP:127.0.0.1, DNS:localhost
"""


@dataclass(frozen=True)
class Certificates:
    """Files of PEM: whom clients must trust, and what the server and respool's listener show them."""

    authority: str
    certificate: str
    key: str


def make_certificates(folder):
    """New ones in `folder`, which is made, and private: the keys are there too."""
    os.mkdir(folder, mode=0o700)
    files = Certificates(*(os.path.join(folder, name) for name in ("authority.pem", "server.pem", "server-key.pem")))
    authority_key = os.path.join(folder, "authority-key.pem")
    authority_config = _config(folder, "authority")
    _key(authority_key)
    _key(files.key)
    signing = ["-key", authority_key, "-config", authority_config, "-extensions", "authority"]
    _openssl("req", "-x509", "-new", *signing, "-days", VALID_DAYS, "-out", files.authority)
    config, request = _config(folder, "server"), os.path.join(folder, "server.csr")
    _openssl("req", "-new", "-key", files.key, "-config", config, "-out", request)
    by = ["-CA", files.authority, "-CAkey", authority_key, "-set_serial", "1", "-days", VALID_DAYS]
    _openssl("x509", "-req", "-in", request, *by, "-extfile", config, "-extensions", "server", "-out", files.certificate)
    return files


def _config(folder, name):
    path = os.path.join(folder, f"{name}.cnf")
    with open(path, "w", encoding="utf-8") as file:
        file.write(REQUEST.format(name=f"respool clients {name}"))
    return path


def _key(path):
    _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path)


def _openssl(*arguments):
    done = subprocess.run(["openssl", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"openssl {arguments[0]}: {done.stderr.strip()}")
