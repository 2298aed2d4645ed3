"""A place where all ranks wait for one another, as long as need be: one byte to rank 0 and one back.

gloo itself gives up after 30 seconds, and a word to Paddle's TCP store takes 44 ms. It does not matter how
late a rank is; that one is gone shows at once.
"""

from __future__ import annotations

import hmac
import secrets
import socket
import time
from typing import Any

from utils.errors import ZooError

PATIENCE_SECONDS = 1800  # that of NCCL
TOKEN_BYTES = 16  # by which rank 0 knows a rank of this run from a stranger


class LostPeer(RuntimeError):
    """Another rank has ended."""


class Meeting:
    """The connections of a rank: to all others in rank 0, else to rank 0.

    Args:
        host: address of rank 0, which all can reach.
        store: Paddle's TCP store, over which rank 0 tells its port and the token.

    Raises ZooError after half an hour, LostPeer where a rank is gone; so does ``wait``.
    """

    def __init__(self, rank: int, world_size: int, host: str, store: Any) -> None:
        self.rank, self.peers = rank, []
        deadline = time.monotonic() + PATIENCE_SECONDS
        try:
            if rank == 0:
                token = secrets.token_bytes(TOKEN_BYTES)
                with socket.create_server((host, 0), backlog=world_size) as server:
                    store.set("meeting", f"{server.getsockname()[1]} {token.hex()}")
                    while len(self.peers) < world_size - 1:
                        self._accept(server, token, deadline)
            else:
                port, token = store.get("meeting").decode().split()
                self.peers.append(socket.create_connection((host, int(port)), PATIENCE_SECONDS))
                self.peers[0].sendall(bytes.fromhex(token))
        except TimeoutError:
            raise self._impatient() from None
        except OSError as error:
            raise LostPeer(f"cannot meet rank 0 at {host}: {error.strerror}") from error
        for peer in self.peers:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer.settimeout(PATIENCE_SECONDS)

    def _accept(self, server: socket.socket, token: bytes, deadline: float) -> None:
        server.settimeout(max(0.001, deadline - time.monotonic()))
        peer, _ = server.accept()
        try:
            peer.settimeout(5)
            known = hmac.compare_digest(peer.recv(TOKEN_BYTES, socket.MSG_WAITALL), token)
        except OSError:
            known = False
        if known:
            self.peers.append(peer)
        else:
            peer.close()

    def wait(self) -> None:
        """Return when every rank has come here."""
        try:
            if self.rank == 0:
                for peer in self.peers:
                    self._hear(peer)
                for peer in self.peers:
                    peer.sendall(b"!")
            else:
                self.peers[0].sendall(b"?")
                self._hear(self.peers[0])
        except TimeoutError:
            raise self._impatient() from None
        except OSError as error:
            raise LostPeer(f"a rank has closed its connection ({error.strerror})") from error

    def close(self) -> None:
        for peer in self.peers:
            peer.close()

    def _hear(self, peer: socket.socket) -> None:
        if not peer.recv(1):
            raise LostPeer("a rank has closed its connection")

    def _impatient(self) -> ZooError:
        return ZooError(f"rank {self.rank} has waited {PATIENCE_SECONDS} seconds for another one")
