"""What becomes of the jobs that zerocast.from_pretrained and load_into make on a server of the user, on real ranks and agents.

fault_cases says what this wants.
"""

import signal
import unittest

import fault_cases  # before what it makes importable
from fault_cases import MIXTRAL, Case, call, cluster
from fault_ranks import World

setUpModule = fault_cases.prepare


class Jobs(Case):

    def job(self, running, *command):
        return cluster.zerocast("--server", running.address, "--output", "json", "job", *command).json()

    def test_each_ends_with_the_call_that_made_it_and_the_users_own_does_not(self):
        with cluster.Cluster(1) as running:
            users = self.job(running, "submit", MIXTRAL, "--world-size", 2)["job"]
            to_server = {"server": running.address}
            calls = [call(**to_server), call(what="load_into", **to_server), call(what="load_into", **to_server),
                     call(keywords={"mode": "private"}, gather=True, **to_server), call(gather=True, **to_server)]
            with World({"calls": calls}, nodes=["node0"]) as world:
                ranks = world.wait()
                made = [self.all_work(ranks, number) for number in range(len(calls))]
                self.assertEqual(made[3], made[4])
            self.assertEqual([job["state"] for job in self.job(running, "list")["jobs"]], ["active"] + ["done"] * 5)
            self.assertEqual(self.job(running, "finish", users)["state"], "done")
            self.assertEqual(self.nothing_held(running), ["done"] * 6)

    def test_one_that_fails_is_cancelled_and_the_next_is_done(self):
        with cluster.Cluster(1) as running:
            wider = fault_cases.edited(self.folder / "wider", intermediate_size=64)
            with World({"calls": [call(wider, server=running.address), call(server=running.address)]}, nodes=["node0"]) as world:
                ranks = world.wait()
                self.all_raise(ranks, "LoadError", reason="WEIGHTS_INCOMPLETE", number=0)
                self.all_work(ranks)
            self.assertEqual(self.nothing_held(running), ["cancelled", "done"])

    def test_one_whose_ranks_are_all_killed_expires(self):
        wait = {"attach": "wait"}  # not "kill": the one that lives longer would end the job
        with cluster.Cluster(1) as running, \
                World({"calls": [call(server=running.address)], "at": {"0": wait, "1": wait}, "lease": 2.0}, nodes=["node0"]) as world:
            world.await_point(0)
            world.await_point(1)
            world.signal(signal.SIGKILL, 1, 0)
            self.assertEqual([rank.status for rank in world.wait()], [-signal.SIGKILL] * 2)
            self.assertEqual(self.nothing_held(running), ["expired"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
