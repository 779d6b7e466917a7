"""What the server sees of a scenario: how many connections at most, how many in all, and what they leave behind."""

import re
import threading
import time

from server_connection import ServerConnection

SAMPLE_EVERY_S = 0.01
# What the runner itself holds while it watches.
OWN_CONNECTIONS = 1
UNLIMITED = 10_000
SETTLED_WITHIN_S = 15


class Watch:
    """Counts the server's connections, its own excluded, from `start` to `stop`, in a thread of its own."""

    def __init__(self, server):
        """Takes over `server`, a connection of the runner's."""
        self._server = server
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._failure = None
        self.peak = 0
        self.opened = 0
        self.refused = 0

    def start(self, limit=UNLIMITED):
        """From here on the server itself refuses, and counts, what comes past `limit` connections, however short it lives."""
        self._server.call("CONFIG", "SET", "maxclients", limit + OWN_CONNECTIONS)
        self._server.call("CONFIG", "RESETSTAT")
        self._thread.start()

    def stop(self):
        self._stopping.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        self.opened = self._server.info("stats", "total_connections_received")
        self.refused = self._server.info("stats", "rejected_connections")
        self._server.call("CONFIG", "SET", "maxclients", UNLIMITED)
        self._server.close()

    def _sample(self):
        try:
            while not self._stopping.wait(SAMPLE_EVERY_S):
                self.peak = max(self.peak, self._server.info("clients", "connected_clients") - OWN_CONNECTIONS)
        except Exception as failure:
            # Told by `stop`: a thread's own exception would only be printed.
            self._failure = failure


def leftovers(client, instance):
    """What is wrong with one connection of respool's that nobody uses, as a list of texts."""
    wrong = []
    if not re.fullmatch(rf"respool:{re.escape(instance)}:(shared|pinned|subscription):\d+", client["name"]):
        wrong.append(f"name={client['name'] or '(none)'}")
    # N: nothing of note. A flag tells a transaction, a subscription, a blocked call, MONITOR, tracking and so on.
    if client["flags"] != "N":
        wrong.append(f"flags={client['flags']}")
    expected = {"multi": "-1", "sub": "0", "psub": "0", "ssub": "0", "watch": "0", "redir": "-1"}
    for field, value in expected.items():
        # Valkey, which tells `capa`, says 0 once there has been a transaction; the flags say that there is none.
        if field == "multi" and "capa" in client and client[field] == "0":
            continue
        if client.get(field, value) != value:
            wrong.append(f"{field}={client[field]}")
    return wrong


def unsettled(port, instance):
    """Waits until the server sees only idle connections of respool's; what still stands in the way after the deadline."""
    deadline = time.monotonic() + SETTLED_WITHIN_S
    with ServerConnection(port) as server:
        while True:
            found = []
            for client in server.clients():
                wrong = leftovers(client, instance)
                if wrong:
                    found.append(f"connection {client['id']} ({client['name']}, cmd={client['cmd']}): {', '.join(wrong)}")
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(SAMPLE_EVERY_S)
