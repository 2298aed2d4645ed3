"""Ranks that wait for one another; here they are threads."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from utils import meeting
from utils.errors import ZooError
from utils.meeting import LostPeer, Meeting


class Store:
    """As Paddle's: ``get`` waits until somebody has set it."""

    def __init__(self) -> None:
        self.words: queue.Queue[str] = queue.Queue()

    def set(self, name: str, value: str) -> None:
        self.words.put(value)

    def get(self, name: str) -> bytes:
        word = self.words.get(timeout=10)
        self.words.put(word)
        return word.encode()


@contextmanager
def ranks(world_size: int, store: Store, work: Callable[[Meeting], None]) -> Iterator[list]:
    """``work`` on every rank but 0, in threads; what they raised."""
    raised: list[Exception] = []

    def of_rank(rank: int) -> None:
        try:
            with closing(Meeting(rank, world_size, "127.0.0.1", store)) as joined:
                work(joined)
        except Exception as error:  # for the test to look at
            raised.append(error)

    threads = [threading.Thread(target=of_rank, args=(rank,)) for rank in range(1, world_size)]
    for thread in threads:
        thread.start()
    yield raised
    for thread in threads:
        thread.join(20)


def test_nobody_goes_on_before_all_have_come():
    store, came = Store(), []

    def late(joined: Meeting) -> None:
        for i in range(3):
            time.sleep(0.05 * joined.rank)
            came.append(i)
            joined.wait()

    with ranks(3, store, late) as raised, closing(Meeting(0, 3, "127.0.0.1", store)) as joined:
        for i in range(3):
            joined.wait()
            assert came.count(i) == 2
    assert not raised


def test_a_rank_that_is_gone_shows_at_once():
    store = Store()
    with ranks(2, store, Meeting.wait) as raised, closing(Meeting(0, 2, "127.0.0.1", store)) as joined:
        joined.wait()
        with pytest.raises(LostPeer):
            joined.wait()
    assert not raised

    store = Store()
    with ranks(3, store, Meeting.wait) as raised:
        Meeting(0, 3, "127.0.0.1", store).close()
    assert [type(error) for error in raised] == [LostPeer] * 2


def test_a_stranger_is_no_rank():
    store = Store()

    def stranger() -> None:
        port = int(store.get("meeting").split()[0])
        for said in (b"", b"x" * meeting.TOKEN_BYTES):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(said)
        with ranks(2, store, Meeting.wait) as raised:
            pass
        assert not raised

    thread = threading.Thread(target=stranger)
    thread.start()
    with closing(Meeting(0, 2, "127.0.0.1", store)) as joined:
        joined.wait()
        assert len(joined.peers) == 1
    thread.join(20)


def test_patience_ends(monkeypatch):
    monkeypatch.setattr(meeting, "PATIENCE_SECONDS", 0.05)
    with pytest.raises(ZooError, match=r"rank 0 has waited 0\.05 seconds"):
        Meeting(0, 2, "127.0.0.1", Store())
    store = Store()
    impatient = pytest.raises(ZooError, match=r"rank 0 has waited 0\.05 seconds")
    with ranks(2, store, lambda joined: time.sleep(0.5)) as raised:
        joined = Meeting(0, 2, "127.0.0.1", store)
        with closing(joined), impatient:
            joined.wait()
    assert not raised


def test_a_rank_0_that_nobody_can_reach_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    store = Store()
    store.set("meeting", f"{port} {'00' * meeting.TOKEN_BYTES}")
    with pytest.raises(LostPeer, match=r"cannot meet rank 0 at 127\.0\.0\.1: Connection refused"):
        Meeting(1, 2, "127.0.0.1", store)
