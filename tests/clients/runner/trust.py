"""Whether a library verifies: a server that another authority vouches for must get no command from it."""

import os

from processes import Failed, Place, running, wait_until
from server_connection import ServerConnection

# What the runner itself sends while it looks.
OWN_COMMANDS = {"config|resetstat", "info"}
# How the server's log tells of a client that broke off the handshake.
TURNED_AWAY = "Error accepting a client connection"


def unverified(scenario, server, stranger, folder):
    """What shows that the scenario's library takes any server's certificate, as a list of texts.

    `stranger` is an authority that has not signed the server's certificate.
    """
    place = Place(server.place.port, stranger)
    logged_before = server.logged()
    with ServerConnection(server.port) as own:
        own.call("CONFIG", "RESETSTAT")

        def commands():
            return own.names_of_commands() - OWN_COMMANDS

        def turned_away():
            return TURNED_AWAY in server.logged()[len(logged_before) :]

        with running(scenario, place, folder, os.path.join(folder, "stranger.log")):
            try:
                wait_until("the library connects, and leaves", lambda: commands() or turned_away())
            except Failed as failure:
                return [f"with an authority that is not the server's: {failure}"]
            sent = commands()
    return [f"did not verify the server's certificate, and sent {', '.join(sorted(sent))}"] if sent else []
