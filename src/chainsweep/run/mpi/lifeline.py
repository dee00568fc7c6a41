"""Connections between the processes of one job that tell, through the kernel alone, when one of them dies.

Every rank holds a connection to rank 0. The end of a process closes its connection, whatever the cause, however busy
the others are, and even if the launcher does not notice; a lost node is found by the kernel's keep-alive probes.
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

CONNECT_SECONDS = 10.0
KEEPALIVE = {socket.TCP_KEEPIDLE: 5, socket.TCP_KEEPINTVL: 3, socket.TCP_KEEPCNT: 4}
"""The seconds of silence before the first probe, the seconds between probes, and the number of probes: a lost node is
found after 17 s (5 s + 4 x 3 s)."""
GOODBYE = b"."


@dataclass(frozen=True)
class Address:
    """The address on which rank 0 listens: its host names and addresses, best first, and the secret token."""

    hosts: tuple[str, ...]
    port: int
    token: str


class Lifeline:
    """The connections of this process; a thread calls ``on_death(peer)`` when one breaks without a goodbye."""

    def __init__(self, peers: dict[int, socket.socket], on_death: Callable[[int], None]) -> None:
        self._peers = peers
        self._on_death = on_death
        self._gone = threading.Event()
        for connection in peers.values():
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in KEEPALIVE.items():
                connection.setsockopt(socket.IPPROTO_TCP, option, value)
            connection.setblocking(True)
        threading.Thread(target=self._watch, name="lifeline", daemon=True).start()

    def _watch(self) -> None:
        left = set()
        with selectors.DefaultSelector() as selector:
            for peer, connection in self._peers.items():
                selector.register(connection, selectors.EVENT_READ, peer)
            while selector.get_map():
                for key, _ in selector.select():
                    received = _received(self._peers[key.data])
                    if received == GOODBYE:
                        left.add(key.data)
                        continue
                    selector.unregister(key.fileobj)
                    if key.data not in left:
                        self._on_death(key.data)
        self._gone.set()

    def goodbye(self) -> None:
        """Tell the peers that this process is about to end as it should."""
        for connection in self._peers.values():
            try:
                connection.sendall(GOODBYE)
            except OSError:
                # a peer that has ended needs no goodbye; _watch handles its death
                continue

    def wait_until_gone(self, seconds: float) -> bool:
        """Return True if every peer's process ends within ``seconds``."""
        return self._gone.wait(seconds)


def _received(connection: socket.socket) -> bytes:
    """Return one byte, or no bytes if the connection is broken."""
    try:
        return connection.recv(1)
    except OSError:
        return b""


class Listener:
    """The end of rank 0 while the ranks connect."""

    def __init__(self, token: str) -> None:
        self._socket = socket.create_server(("", 0))
        names = [socket.gethostname(), socket.getfqdn()]
        try:
            names += socket.gethostbyname_ex(socket.gethostname())[2]
        except OSError:
            print(f"the name of this host, {names[0]}, has no address", flush=True)
        self.address = Address(tuple(dict.fromkeys(names)), self._socket.getsockname()[1], token)

    def accept(self, count: int) -> dict[int, socket.socket]:
        """Return the connections by rank, fewer than ``count`` if the time limit is reached."""
        peers: dict[int, socket.socket] = {}
        ends = time.monotonic() + CONNECT_SECONDS
        with self._socket:
            while len(peers) < count and (left := ends - time.monotonic()) > 0:
                self._socket.settimeout(left)
                try:
                    connection, _ = self._socket.accept()
                except TimeoutError:
                    break
                connection.settimeout(max(0.1, ends - time.monotonic()))
                rank = _introduction(connection, self.address.token)
                if rank is None:
                    connection.close()
                else:
                    peers[rank] = connection
        return peers


def _introduction(connection: socket.socket, token: str) -> int | None:
    """Return the rank that sent the token, or None if no rank did."""
    received = b""
    try:
        while not received.endswith(b"\n") and len(received) < 200:
            received += connection.recv(1) or b"\n"
    except OSError:
        return None
    shown, _, rank = received.decode(errors="replace").strip().partition(" ")
    return int(rank) if shown == token and rank.isdigit() else None


def connect(address: Address, rank: int, same_host: bool) -> socket.socket | None:
    """Return this rank's connection to rank 0, or None if none of rank 0's addresses can be reached."""
    for host in (("127.0.0.1",) if same_host else ()) + address.hosts:
        try:
            connection = socket.create_connection((host, address.port), timeout=CONNECT_SECONDS / 4)
            connection.sendall(f"{address.token} {rank}\n".encode())
        except OSError:
            continue
        return connection
    return None
