"""One plain connection to the server: what the runner itself asks, without any of the libraries under test."""

import socket


class ServerError(Exception):
    """An error reply."""


class ServerConnection:
    """RESP2 over TCP, one command at a time. Also a context manager."""

    def __init__(self, port, timeout_s=10):
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self._replies = self._socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self._replies.close()
        self._socket.close()

    def call(self, *words):
        """The reply as str, int, None or list; raises ServerError for an error."""
        parts = [str(word).encode() for word in words]
        request = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        self._socket.sendall(request)
        return self._read()

    def _read(self):
        line = self._replies.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the server closed the connection")
        kind, rest = line[:1], line[1:-2].decode()
        if kind == b"+":
            return rest
        if kind == b"-":
            raise ServerError(rest)
        if kind == b":":
            return int(rest)
        if kind == b"$":
            if int(rest) < 0:
                return None
            return self._replies.read(int(rest) + 2)[:-2].decode(errors="replace")
        if kind == b"*":
            return None if int(rest) < 0 else [self._read() for _ in range(int(rest))]
        raise ConnectionError(f"not a RESP2 reply: {line!r}")

    def clients(self):
        """CLIENT LIST without this connection: a dict of the fields for each."""
        own = str(self.call("CLIENT", "ID"))
        lines = self.call("CLIENT", "LIST").splitlines()
        listed = [dict(field.split("=", 1) for field in line.split(" ")) for line in lines]
        return [client for client in listed if client["id"] != own]

    def names_of_commands(self):
        """Of all commands that the server was sent since CONFIG RESETSTAT."""
        lines = self.call("INFO", "commandstats").splitlines()
        return {line.split(":")[0].removeprefix("cmdstat_") for line in lines if line.startswith("cmdstat_")}

    def info(self, section, name):
        """A whole number of INFO."""
        for line in self.call("INFO", section).splitlines():
            if line.startswith(name + ":"):
                return int(line.split(":", 1)[1])
        raise ServerError(f"INFO {section} has no {name}")
