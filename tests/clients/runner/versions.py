"""The versions that are pinned, read from where they are pinned, so that no page can tell others."""

import json
import os
import re
import subprocess

# The server's program.
SERVER = os.environ.get("REDIS_SERVER", "redis-server")
CLIENTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def node(name):
    """Of an entry of node/package-lock.json; `name` may be an alias."""
    with open(os.path.join(CLIENTS, "node", "package-lock.json"), encoding="utf-8") as file:
        return json.load(file)["packages"][f"node_modules/{name}"]["version"]


def python(name, requirements="requirements.txt"):
    """Of a line of a file of requirements."""
    with open(os.path.join(CLIENTS, "python", requirements), encoding="utf-8") as file:
        return re.search(rf"^{re.escape(name)}==(\S+)", file.read(), re.MULTILINE).group(1)


def rust(name):
    """Of an entry of rust/Cargo.lock."""
    with open(os.path.join(CLIENTS, "rust", "Cargo.lock"), encoding="utf-8") as file:
        return re.search(rf'^name = "{re.escape(name)}"\nversion = "([^"]+)"', file.read(), re.MULTILINE).group(1)


def ruby(name):
    """Of an installed gem: these come with the system's packages."""
    script = f"print Gem::Specification.find_by_name('{name}').version"
    return subprocess.run(["ruby", "-e", script], check=True, capture_output=True, text=True).stdout


def redis_server():
    """Which server it is that all speak to, and its version: `Redis 7.0.15`."""
    told = subprocess.run([SERVER, "--version"], check=True, capture_output=True, text=True).stdout
    return " ".join(re.match(r"(\w+) server v=(\S+)", told).groups())
