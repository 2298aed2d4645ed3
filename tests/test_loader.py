"""Order, sharding, failures and dying workers."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest
from paddle.io import Dataset

from utils.errors import ConfigError, DataError
from utils.loader import (
    Loader,
    check_batch,
    evaluation_batches,
    num_workers,
    training_batches,
    training_order,
)


class Numbers(Dataset):
    """Sample i is the number i; ``bad`` cannot be read, ``broken`` raises, ``deadly`` kills the worker."""

    def __init__(self, n=12, bad=(), broken=(), deadly=()):
        super().__init__()
        self.n, self.bad, self.broken, self.deadly = n, bad, broken, deadly

    def __len__(self):
        return self.n

    def describe(self, index):
        return f"clip{index}.mp4"

    def __getitem__(self, index):
        if index in self.bad:
            raise DataError(f"clip{index}.mp4: not a readable video")
        if index in self.broken:
            raise KeyError("a bug")
        if index in self.deadly:
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGKILL)
        return {"x": np.array([index], np.int64), "video": f"clip{index}.mp4"}


def read(loader):
    fields = list(loader)
    return [list(f["x"].numpy().reshape(-1)) if f else [] for f, _ in fields], [x for _, x in fields]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order(workers):
    batches = [[3, 1], [0, 2], [5, 4]]
    got, failures = read(Loader(Numbers(), batches, workers))
    assert got == batches
    assert failures == [[], [], []]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_be_read_is_named_and_the_rest_goes_on(workers):
    got, failures = read(Loader(Numbers(bad=(1, 4, 5)), [[0, 1, 2], [4, 5], [6, 7]], workers))
    assert got == [[0, 2], [], [6, 7]]
    assert [[name for name, _ in batch] for batch in failures] == [
        ["clip1.mp4"],
        ["clip4.mp4", "clip5.mp4"],
        [],
    ]
    assert failures[0][0][1] == "clip1.mp4: not a readable video"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bug_in_a_reader_stops_the_run_with_the_name_and_the_traceback(workers):
    with pytest.raises(RuntimeError, match=r"(?s)reading clip3\.mp4 failed.*KeyError: 'a bug'"):
        read(Loader(Numbers(broken=(3,)), [[0, 1], [2, 3], [4, 5]], workers))


def test_a_killed_worker_stops_the_run_within_seconds_and_names_its_sample():
    started = time.monotonic()
    with pytest.raises(DataError, match=r"reader process died while reading clip3\.mp4.*num_workers"):
        read(Loader(Numbers(deadly=(3,)), [[0, 1], [2, 3], [4, 5]], 2))
    assert time.monotonic() - started < 60


def test_the_order_of_2019():
    assert training_order(10, 0, 0) == [7, 8, 1, 5, 3, 4, 2, 0, 9, 6]
    assert training_order(10, 0, 1) != training_order(10, 0, 0)
    assert sorted(training_order(10, 5, 3)) == list(range(10))


def test_ranks_share_each_training_batch_and_the_tail_is_dropped():
    order = [5, 3, 1, 0, 2, 4, 6]
    whole = training_batches(order, 4)
    assert whole == [[5, 3, 1, 0]]
    shares = [training_batches(order, 4, rank, 2) for rank in (0, 1)]
    assert sorted(shares[0][0] + shares[1][0]) == sorted(whole[0])
    assert training_batches(list(range(12)), 4, skip=2) == [[8, 9, 10, 11]]


@pytest.mark.parametrize(("n", "world"), [(7, 1), (7, 2), (7, 3), (2, 3), (0, 2), (16, 2), (17, 5)])
def test_every_sample_is_evaluated_exactly_once_in_list_order(n, world):
    batches = [evaluation_batches(range(n), 4, rank, world) for rank in range(world)]
    assert [i for part in batches for batch in part for i in batch] == list(range(n))
    assert all(0 < len(batch) <= max(1, 4 // world) for part in batches for batch in part)
    counts = [sum(len(batch) for batch in part) for part in batches]
    assert max(counts) - min(counts) <= 1

    numbers = Numbers(n)
    numbers.whole_batches = True
    parts = [evaluation_batches(numbers, 4, rank, world) for rank in range(world)]
    assert [batch for part in parts for batch in part] == evaluation_batches(numbers, 4)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(("batch", "world", "nearest"), [(5, 2, "4 or 6"), (1, 2, "2"), (10, 4, "8 or 12")])
def test_a_batch_that_ranks_cannot_share_offers_the_nearest(batch, world, nearest):
    check_batch(8, 8, world)
    with pytest.raises(
        ConfigError, match=f"batch_size {batch} cannot .* {world} processes; nearest: {nearest}$"
    ):
        check_batch(batch, 100, world)


def test_workers_default_to_the_recipe_within_the_cores():
    assert num_workers(5, 12, 1) == 5
    assert num_workers(None, 0, 1) == 0
    assert num_workers(None, 10_000, 1) <= os.cpu_count()
