#!/usr/bin/env python3
"""Ranks agree on what happened: threads as ranks, a store as torch.distributed's."""

import threading
import time
import unittest
from unittest import mock

from zerocast import _agreement
from zerocast._agreement import Ranks, Store, nodes_of
from zerocast._errors import LoadError, ServerError

TIMEOUT = 1.5
# What a rank may take beyond the timeout: two beats, and a busy machine.
GRACE = 10.0


class SharedStore(Store):
    """As torch.distributed's TCPStore, within a process; may be lost."""

    def __init__(self):
        super().__init__()
        self._lock = threading.Lock()
        self.is_lost = False

    def _look(self):
        if self.is_lost:
            raise RuntimeError("Broken pipe")

    def set(self, key, value):
        with self._lock:
            self._look()
            super().set(key, value)

    def add(self, key, amount):
        with self._lock:
            self._look()
            return super().add(key, amount)

    def compare_set(self, key, expected, desired):
        with self._lock:
            self._look()
            return super().compare_set(key, expected, desired)

    def check(self, keys):
        self._look()
        return super().check(keys)


class AgreementTest(unittest.TestCase):

    def setUp(self):
        self.store = SharedStore()

    def run_ranks(self, count, function):
        """What each rank's function returned or raised, and the seconds that all took."""
        ranks = []
        for rank in range(count):
            with mock.patch.object(_agreement, "_calls", 0):  # each is the first call of its process
                ranks.append(Ranks(self.store, rank, count, TIMEOUT))
        results = [None] * count

        def run(rank):
            try:
                results[rank] = function(ranks[rank])
            except BaseException as error:  # noqa: B902 (the test looks at it)
                results[rank] = error

        threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results, time.monotonic() - start

    def assert_all(self, results, text, reason, rank):
        for result in results:
            self.assertIsInstance(result, LoadError)
            self.assertEqual((str(result), result.reason, result.rank), (str(results[0]), reason, rank))
            self.assertRegex(str(result), text)

    def test_values_come_by_rank(self):
        results, _ = self.run_ranks(3, lambda ranks: ranks.exchange("names", {"r": ranks.rank}))
        self.assertEqual(results, [[{"r": 0}, {"r": 1}, {"r": 2}]] * 3)

    def test_one_failure_is_everybodys(self):
        def step(ranks):
            with ranks.step("read"):
                if ranks.rank == 1:
                    raise ServerError("NOT_FOUND", "no such folder", "CHECKPOINT_NOT_FOUND")
            return "went on"

        results, seconds = self.run_ranks(3, step)
        self.assert_all(results, "^NOT_FOUND: rank 1: no such folder$", "CHECKPOINT_NOT_FOUND", 1)
        self.assertLess(seconds, GRACE)

    def test_the_first_of_two_failures_is_everybodys(self):
        def step(ranks):
            with ranks.step("read"):
                raise ValueError(f"of {ranks.rank}")

        results, _ = self.run_ranks(3, step)
        self.assert_all(results, r"^INVALID_ARGUMENT: rank (\d): ValueError: of \1$", "", results[0].rank)
        for result in results:
            self.assertIsInstance(result.__cause__, ValueError)

    def test_a_failure_is_seen_in_a_later_step_and_within_another(self):
        def steps(ranks):
            with ranks.step("outer"):
                if ranks.rank == 2:
                    raise OSError("disk")
                ranks.exchange("inner", ranks.rank)
            return "went on"

        results, _ = self.run_ranks(3, steps)
        self.assert_all(results, "rank 2: OSError: disk", "", 2)

    def test_a_silent_rank_is_named_within_the_timeout(self):
        def step(ranks):
            if ranks.rank == 2:
                return "died"
            with ranks.step("attach"):
                pass
            return "went on"

        results, seconds = self.run_ranks(4, step)
        self.assertEqual(results.pop(2), "died")
        self.assert_all(results, 'rank 2: said nothing for 1.5 s in the step "attach"', "RANK_LOST", 2)
        self.assertLess(seconds, TIMEOUT + GRACE)

    def test_a_rank_that_works_is_waited_for(self):
        def load(ranks):
            if ranks.rank == 0:
                with ranks.working("load"):
                    time.sleep(2 * TIMEOUT)
                ranks.give("load", "done")
                return "done"
            return ranks.result_of("load", 0)

        results, seconds = self.run_ranks(3, load)
        self.assertEqual(results, ["done"] * 3)
        self.assertGreaterEqual(seconds, 2 * TIMEOUT)

    def test_a_rank_that_stops_working_is_not(self):
        def load(ranks):
            if ranks.rank == 0:
                with ranks.working("load"):
                    time.sleep(TIMEOUT)
                return "killed"
            return ranks.result_of("load", 0)

        results, seconds = self.run_ranks(3, load)
        self.assert_all(results[1:], 'rank 0: said nothing for 1.5 s in the step "load"', "RANK_LOST", 0)
        self.assertLess(seconds, 2 * TIMEOUT + GRACE)

    def test_a_failure_of_the_one_that_works(self):
        def load(ranks):
            with ranks.step("all"):
                if ranks.rank == 0:
                    with ranks.working("load"):
                        time.sleep(0.2)
                        raise LoadError("DATA_LOSS", "a torn file", "CHECKPOINT_CORRUPT")
                return ranks.result_of("load", 0)

        results, _ = self.run_ranks(3, load)
        self.assert_all(results, "^DATA_LOSS: rank 0: a torn file$", "CHECKPOINT_CORRUPT", 0)

    def work(self, do, wait=lambda ranks: ranks.result_of("load", 0), dead=None):
        """What comes of a rank 0 that works until it is stopped, and others that wait."""
        stopped = threading.Event()

        def load(ranks):
            if ranks.rank == dead:
                ranks._beat("load")  # and never again
                return "killed"
            with ranks.step("all"):
                if ranks.rank > 0:
                    return wait(ranks)
                with ranks.working("load", stopped.set):
                    do(ranks, stopped)
                return "went on"

        return self.run_ranks(3, load)

    def until_stopped(self, _, stopped):
        self.assertTrue(stopped.wait(GRACE))

    def test_a_rank_that_waits_for_the_one_that_works_and_dies_stops_it(self):
        results, seconds = self.work(self.until_stopped, dead=2)
        self.assert_all(results[:2], 'rank 2: said nothing for 1.5 s in the step "load"', "RANK_LOST", 2)
        self.assertLess(seconds, 3 * TIMEOUT + GRACE)

    def test_a_failure_elsewhere_stops_the_one_that_works_whatever_it_raises_then(self):
        def wait(ranks):
            if ranks.rank == 1:
                raise KeyboardInterrupt
            return ranks.result_of("load", 0)

        def cancelled(_, stopped):
            self.assertTrue(stopped.wait(GRACE))
            raise ServerError("CANCELLED", "the load was cancelled")

        for do in (self.until_stopped, cancelled):
            self.store = SharedStore()
            results, _ = self.work(do, wait)
            self.assertIsInstance(results.pop(1), KeyboardInterrupt)
            self.assert_all(results, "^CANCELLED: rank 1: interrupted$", "CANCELLED", 1)

    def test_a_lost_store_stops_the_one_that_works(self):
        def lose(ranks, stopped):
            self.store.is_lost = True
            self.until_stopped(ranks, stopped)

        results, _ = self.work(lose)
        self.assert_all(results, "the store of torch.distributed, .*, is gone", "RANK_LOST", 0)

    def test_an_error_may_be_of_another_rank_than_the_one_that_found_it(self):
        def step(ranks):
            with ranks.step("compare"):
                raise LoadError("FAILED_PRECONDITION", "another model", rank=2)

        results, _ = self.run_ranks(3, step)
        self.assert_all(results, "^FAILED_PRECONDITION: rank 2: another model$", "", 2)

    def test_what_is_told_is_raised_by_those_that_wait(self):
        def call(ranks):
            if ranks.rank == 1:
                ranks.tell(TypeError("no such keyword"))
                raise TypeError("no such keyword")
            with ranks.step("load"):
                pass

        results, _ = self.run_ranks(3, call)
        self.assertIsInstance(results.pop(1), TypeError)
        self.assert_all(results, "^INVALID_ARGUMENT: rank 1: TypeError: no such keyword$", "", 1)

    def test_rank_0_stays_until_the_others_know_of_its_failure(self):
        def step(ranks):
            if ranks.rank == 2:
                time.sleep(1.0)
            with ranks.step("read"):
                if ranks.rank == 0:
                    raise OSError("disk")

        def call(ranks):
            try:
                step(ranks)
            finally:
                if ranks.rank == 0:  # its process ends
                    self.store.is_lost = True

        results, _ = self.run_ranks(3, call)
        self.assert_all(results, "^NOT_FOUND: rank 0: OSError: disk$", "", 0)

    def test_a_call_within_another_ends_with_it_and_the_next_is_in_step_again(self):
        def inner(ranks, fails):
            call = _agreement.open_ranks(ranks.timeout)
            with call.step("inner"):
                if fails == "inner" and ranks.rank == 1:
                    raise OSError("of the inner")

        calls = {}
        for rank in range(3):
            with mock.patch.object(_agreement, "_calls", 10):  # as in its own process
                calls[rank] = [Ranks(self.store, rank, 3, GRACE) for _ in range(3)]

        def outer(ranks):
            said = []
            for call, fails in zip(calls[ranks.rank], ("inner", "outer", "nobody")):
                try:
                    with call.step("outer"):
                        if fails == "outer" and ranks.rank == 1:
                            raise OSError("of the outer")  # and never comes to the inner one
                        inner(call, fails)
                    said.append("")
                except LoadError as error:
                    said.append(str(error))
            return said

        results, seconds = self.run_ranks(3, outer)
        self.assertEqual(results, [["NOT_FOUND: rank 1: OSError: of the inner", "NOT_FOUND: rank 1: OSError: of the outer", ""]] * 3)
        self.assertLess(seconds, GRACE)

    def test_ranks_that_ask_for_other_things_are_named(self):
        def ask(ranks):
            ranks.alike("same", {"stage": 3})
            ranks.alike("begin", {"stage": 2 if ranks.rank == 1 else 3, "dtype": "bf16"})

        results, _ = self.run_ranks(3, ask)
        self.assert_all(results, 'rank 1: the ranks do not ask for the same in the step "begin": stage is 2, on rank 0 3;',
                        "INVALID_FIELDS", 1)

    def test_a_lost_store_ends_every_wait(self):
        def step(ranks):
            if ranks.rank == 0:
                time.sleep(0.3)
                self.store.is_lost = True
                return "died"
            with ranks.step("attach"):
                pass
            return "went on"

        results, seconds = self.run_ranks(3, step)
        for result in results[1:]:
            self.assertIsInstance(result, LoadError)
            self.assertRegex(str(result), "the store of torch.distributed, .*, is gone.* rank 0 or its launcher")
            self.assertRegex(str(result.__cause__), "Broken pipe")
            self.assertEqual((str(result), result.reason, result.rank), (str(results[1]), "RANK_LOST", 0))
        self.assertLess(seconds, TIMEOUT + GRACE)

    def test_an_interrupt_stays_one_where_it_hit(self):
        def step(ranks):
            with ranks.step("load"):
                if ranks.rank == 1:
                    raise KeyboardInterrupt
            return "went on"

        results, _ = self.run_ranks(3, step)
        self.assertIsInstance(results.pop(1), KeyboardInterrupt)
        self.assert_all(results, "^CANCELLED: rank 1: interrupted$", "CANCELLED", 1)

    def test_nodes_are_blocks_of_neighbours(self):
        names = ["a", "a", "b", "b"]
        results, _ = self.run_ranks(4, lambda ranks: nodes_of(ranks, names[ranks.rank]))
        self.assertEqual(results, [(["a", "b"], 2)] * 4)

    def test_nodes_of_other_shapes_are_refused(self):
        for names in (["a", "b", "a", "b"], ["a", "a", "a", "b"]):
            self.store = SharedStore()
            results, _ = self.run_ranks(4, lambda ranks, names=names: nodes_of(ranks, names[ranks.rank]))
            for result in results:
                self.assertRegex(str(result), "equal blocks of neighbours.*by rank: a, ")


if __name__ == "__main__":
    unittest.main()
