"""Logs why records were rejected and passages were run again in float32."""

import threading
from collections import Counter

from streamer.batches import Result
from streamer.concurrency.events import Log
from streamer.records import Rejection

LOGGED = 20
"""Rejections that are logged individually, for each reason; later ones are only counted."""
LONGEST = 500
"""Characters of a reason that are logged; all of it is in `rejected/`."""


class Incidents:
    """Logs rejections and reruns. May be called from any thread."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._rejected: Counter[str] = Counter()
        self._unlogged: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, result: Result) -> None:
        """Log the rejections and reruns of a batch."""
        if result.work.counts.reruns_in_float32:
            rows = [one.origin.row for one in result.records]
            rows += [one.origin.row for one in result.rejections]
            where = {"first_row": min(rows), "last_row": max(rows)}
            passages = {
                "reason": "the residual is not finite",
                "passages": result.work.counts.reruns_in_float32,
            }
            self._log("run again in float32", passages | where)
        for rejection in result.rejections:
            self._reject(rejection)

    def summarize(self) -> None:
        """Log how many rejections since the last call were not logged individually."""
        with self._lock:
            unlogged, self._unlogged = self._unlogged, Counter()
        if unlogged:
            self._log("rejected more", {"reasons": dict(unlogged.most_common())})

    def _reject(self, rejection: Rejection) -> None:
        kind, origin = rejection.reason.partition(":")[0], rejection.origin
        with self._lock:
            self._rejected[kind] += 1
            is_logged = self._rejected[kind] <= LOGGED
            if not is_logged:
                self._unlogged[kind] += 1
        if is_logged:
            self._log(
                "rejected",
                {
                    "reason": rejection.reason[:LONGEST],
                    "row": origin.row,
                    "source": origin.source,
                    "position": origin.position,
                    "offset": origin.offset,
                },
            )
