"""Processes meet, and one that fails ends all: who is named, how soon, and who is left."""

import time

import numpy as np
import torch
from torch import multiprocessing as mp

from shared import plots
from shared.study import PositiveFloat, Run, UserError
from week17.evidence.processes_worker import fault
from week17.evidence.ranks import prepare
from week17.processes import launch, meet, under_torchrun

FAULTS = {"dies": "process 1 of 3 was ended by SIGKILL", "raises": "process 1 of 3 raised"}
FAULTS |= {"stalls": "no answer from process 1 of 3", "leaves": "process 1 of 3 ended with status"}


def main(run: Run, *, timeout: PositiveFloat = 6.0) -> None:
    """Meet in groups of one to four; let process 1 of 3 fail in four ways.

    Parameters
    ----------
    timeout
        Seconds that a launch with a fault may take.
    """
    most = prepare(run)
    ranks = [launch(meet, n) for n in ([most] if under_torchrun() else range(1, most + 1))]
    for answers in ranks:
        n, got = len(answers), torch.stack([a["all"] for a in answers])
        exact = {"against": "ranks are 0 … n - 1", "kind": "theorem", "why": "whole numbers"}
        run.check(f"{n} processes meet", got, torch.arange(n).expand(n, n), **exact)
    if under_torchrun():
        run.claim(
            "all of torchrun's processes answer",
            len(ranks[0]) == most,
            at_least=1,
            deterministic=True,
        )
        return
    named, seconds, left = [], {}, 0
    for kind, text in FAULTS.items():
        clock = run.out / f"fault-{kind}"
        try:
            launch(fault, 3, kind, str(clock), timeout=timeout)
            said = "nothing"
        except UserError as error:
            said = str(error)
        seconds[kind] = time.time() - float(clock.read_text())
        clock.unlink()
        named.append(said.startswith(text))
        left += len(mp.active_children())
        run.say(f"process 1 {kind}: {said}")
    run.claim("faults whose culprit is named, of 4", sum(named), at_least=4, deterministic=True)
    run.claim("processes left after a fault", left, at_most=0, deterministic=True)
    run.falsifier("a parent that goes on", _goes_on(), breaks="processes left after a fault")
    slowest = max(seconds.values())
    run.claim(
        "all ended in time",
        slowest / timeout,
        at_most=1,
        deterministic=True,
        rtol=None,
        unit="times the time-out",
        note=f"{timeout:g} s",
        quick=False,
    )
    with run.figure("faults", "How long does a fault keep all others waiting?", size=(8, 3)) as ax:
        rows = {f"process 1 {kind}": np.array([s]) for kind, s in seconds.items()}
        labels = {"xlabel": "seconds from the fault to the one line (3 processes)"}
        plots.bars(ax, rows, reference={"time-out": timeout}, **labels)


def _goes_on() -> int:
    """Processes left where nobody ends a process that sleeps."""
    process = mp.get_context("spawn").Process(target=time.sleep, args=(60,), daemon=True)
    process.start()
    left = len(mp.active_children())
    process.kill()
    process.join()
    return left
