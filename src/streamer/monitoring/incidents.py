"""Why records were rejected and passages run again: from results into the log."""

import threading
from collections import Counter

from streamer.monitoring.library_warnings import Log
from streamer.records import Rejection, Result

TOLD = 20
"""Rejections told one by one for each reason; those after are counted."""
LONGEST = 500
"""Characters of a reason that are told; all of it is in `rejected/`."""


class Incidents:
    """Tells the log what did not go smoothly. Used from any thread."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._rejected: Counter[str] = Counter()
        self._untold: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, result: Result) -> None:
        """Tell what happened to a batch."""
        if result.work.reruns:
            rows = [one.origin.row for one in result.records]
            rows += [one.origin.row for one in result.rejections]
            where = {"first_row": min(rows), "last_row": max(rows)}
            passages = {"reason": "the residual is not finite", "passages": result.work.reruns}
            self._log("run again in float32", passages | where)
        for rejection in result.rejections:
            self._reject(rejection)

    def summarize(self) -> None:
        """Tell how many were rejected since the last time beside those told one by one."""
        with self._lock:
            untold, self._untold = self._untold, Counter()
        if untold:
            self._log("rejected more", {"reasons": dict(untold.most_common())})

    def _reject(self, rejection: Rejection) -> None:
        kind, origin = rejection.reason.partition(":")[0], rejection.origin
        with self._lock:
            self._rejected[kind] += 1
            is_told = self._rejected[kind] <= TOLD
            if not is_told:
                self._untold[kind] += 1
        if is_told:
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
