"""On the bundled models a killed and resumed audit ends as one that never was, to the last bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from evenhand.audit.plan import builtin_source
from evenhand.audit.store import Store

KILLS = 2
GROUPS, SAMPLES = 2, 1  # of the built-in plan: 28 templates by 16 names
COMMAND = [sys.executable, "-c", "from evenhand.api.cli import main; main()", "audit"]


def start(folder: Path, *arguments: str, threads: int) -> subprocess.Popen[bytes]:
    env = os.environ | {"EVENHAND_DATA_DIR": str(folder), "EVENHAND_N_THREADS": str(threads)}
    return subprocess.Popen(
        [*COMMAND, *arguments], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def outcome(folder: Path) -> dict[str, Any]:
    with Store(folder) as store:
        [audit] = store.audits()
        assert (audit.state, audit.done) == ("done", audit.total)
        keys = ("response", "seed", "label", "probabilities", "mass", "margin", "finish_reason")
        return {r["id"]: [r[key] for key in keys] for r in store.records(audit.id)}


def verdicts(folder: Path) -> int:
    try:
        with Store(folder) as store:
            return sum(audit.done for audit in store.audits())
    except Exception:  # not there yet, or in the middle of being made
        return 0


@pytest.mark.timeout(180)
def test_a_killed_audit_ends_as_one_that_was_not(tmp_path: Path) -> None:
    """With another number of threads, too: each request is evaluated by itself."""
    data = tomllib.loads(builtin_source("qos-names"))
    data |= {"groups": data["groups"][:GROUPS], "samples": SAMPLES}
    data |= {"generators": ["bundled:chat"], "judges": ["bundled:judge"]}
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(data))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole, "run", str(plan), threads=1).wait() == 0

    chance, kills = random.Random(3), 0
    process = start(killed, "run", str(plan), threads=2)
    while kills < KILLS:
        wanted = verdicts(killed) + chance.randrange(5, 40)
        until = time.monotonic() + 40
        while process.poll() is None and verdicts(killed) < wanted:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert process.poll() is None, "it ended before it was killed often enough"
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        with Store(killed) as store:
            [audit] = store.audits()
        assert audit.total is not None
        assert 0 < audit.done < audit.total
        process = start(killed, "resume", audit.id, threads=2)
    assert process.wait() == 0
    assert outcome(killed) == outcome(whole)
