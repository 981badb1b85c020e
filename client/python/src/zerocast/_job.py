"""The job of a load that a call makes for itself: whoever calls owns it, and it ends with the call."""

from __future__ import annotations

import logging
import threading
from typing import Any, Tuple

from zerocast._client import Client
from zerocast._errors import ServerError
from zerocast._progress import logger

# Longer than a process may be stopped by a busy machine, shorter than anybody waits for memory.
LEASE_SECONDS = 60.0
_RENEWALS = 4  # within a lease
_END_SECONDS = 10.0  # that the call which ends it may take
# Those after which another try may come through.
_AWAY = ("UNAVAILABLE", "DEADLINE_EXCEEDED")


class LoadJob:
    """The job of a load that all ranks know and rank 0 submits. Thread-safe.

    On a server that outlives the load it has a lease, which a thread of rank 0 renews from submit() until
    finish() or cancel(): when that process is gone the server ends the job, and agents free its shards.

    Attributes:
        server: its address.
        spec: the JobSpec.
        timeout: seconds of a call.
    """

    def __init__(self, server: str, spec: Any, request: str, timeout: float, is_leased: bool) -> None:
        """
        Args:
            request: the request_id, the same on all ranks.
            is_leased: whether the server outlives the load.
        """
        self.server = server
        self.spec = spec
        self.timeout = timeout
        self._request = request
        self._lease = LEASE_SECONDS if is_leased else None
        self._name = ""
        self._is_over = False  # nothing is held for it
        self._end = threading.Event()

    def submit(self, client: Client) -> Tuple[str, str]:
        """(its name, the secret that a process shows to attach). ServerError as of Client.create_job."""
        try:
            job, token = client.create_job(self.spec, request_id=self._request, lease=self._lease)
        except ServerError as refused:
            # Unless the answer alone was lost.
            self._is_over = refused.code not in _AWAY
            raise
        self._name = job.name
        if self._lease is not None:
            threading.Thread(target=self._renew, args=(self._lease,), name="zerocast-lease", daemon=True).start()
        return job.name, token

    def _renew(self, lease: float) -> None:
        period = lease / _RENEWALS
        with Client(self.server, timeout=min(self.timeout, period)) as client:
            while not self._end.wait(period):
                try:
                    client.renew_job_lease(self._name)
                except ServerError as error:
                    if error.code not in _AWAY:
                        return  # it is over, and who watches the load is told why
                    logger.info("renew the lease of %s: %s", self._name, error)

    def finish(self) -> None:
        """Every rank has its shard: the job is done. For whoever has submitted it; logs what hinders it."""
        if self._is_over or self._lease is None:
            return
        self._end.set()
        try:
            with Client(self.server, timeout=min(self.timeout, _END_SECONDS)) as client:
                client.finish_job(self._name)
            self._is_over = True
        except ServerError as error:
            # The model is loaded all the same.
            logger.warning("finish %s: %s; it expires within %g s", self._name, error, self._lease)

    def cancel(self) -> None:
        """Has agents free what they hold. May be called by any rank and thread; logs what hinders it."""
        self._end.set()
        if self._is_over:
            return
        try:
            with Client(self.server, timeout=min(self.timeout, _END_SECONDS)) as client:
                # The same request gives the job's name, whether this rank ever heard of it or not.
                job, _ = client.create_job(self.spec, request_id=self._request, lease=self._lease)
                client.cancel_job(job.name)
            self._is_over = True
        except ServerError as error:
            # A server that is not there is no news where this is called.
            logger.log(logging.INFO if error.code == "UNAVAILABLE" else logging.WARNING, "cancel the load of %s: %s",
                       self.spec.checkpoint_path, error)
