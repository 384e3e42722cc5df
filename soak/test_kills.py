"""Fifty kills over one run: it ends as if there had been none, to the bit."""

import json

import streamer
from streamer.embedded import RECORDS
from support.processes import run, run_with_kills

KILLS = 50
COUNT = 12_000


def test_fifty_kills_leave_no_trace(tmp_path):
    files = [json.loads(path.read_text("utf-8")) for path in sorted(RECORDS.glob("*.json"))]
    known = [record for file in files for record in file]
    with (tmp_path / "in.jsonl").open("w") as file:
        for place in range(COUNT):
            record = known[place % len(known)]
            text = json.dumps(record | {"prompt": f"{place}. {record['prompt']}"})
            file.write("{}\n" if place % 41 == 7 else text + "\n")
    common = ["run", "in.jsonl", "--deterministic", "--window", "64", "--progress", "none"]
    common += ["--part-seconds", "0.2"]
    assert run(*common, "--out", "WHOLE", folder=tmp_path, timeout=1800).returncode == 0
    killed = run_with_kills(tmp_path, [*common, "--out", "RUN"], kills=KILLS, seed=0, latest=0.8)
    assert killed == KILLS
    killed_run, whole = (streamer.open_run(tmp_path / name) for name in ("RUN", "WHOLE"))
    assert len(killed_run.manifest["earlier_sessions"]) == KILLS
    for table in ("metrics", "rejected"):
        assert killed_run.table(table).equals(whole.table(table))
    assert killed_run.manifest["counts"] == whole.manifest["counts"]
    assert killed_run.manifest["counts"]["records"] == COUNT
