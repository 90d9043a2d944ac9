"""Killed at any moment, a run that is started again gives the same bytes.

LLM_EVAL_KILLS sets how often it is killed; 20 times without it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from tiny_eval import TinyModel, TinyTask, as_bytes

from llm_eval.engine.run import evaluate

KILLS = int(os.environ.get("LLM_EVAL_KILLS", "20"))

# One process imports everything and forks those that run, before it has any thread.
WORKER = """
import json, os, random, shutil, signal, sys, time, traceback
from pathlib import Path
from tiny_eval import TinyModel, TinyTask, as_bytes
from llm_eval.engine.distributed import World
from llm_eval.engine.run import evaluate

tasks = [TinyTask("one", 40, extra=[{"refuse": 1}, {"odd": 1}]), TinyTask("two", 30)]
cache, kills_wanted = Path("cache"), int(sys.argv[1])


def life(rank, size):
    model = TinyModel(pause=max(0.02, 0.001 * kills_wanted))
    outcome = evaluate(model, tasks, templates=True, cache=cache, world=World(rank, size, 60.0))
    if outcome is not None:
        Path("result.part").write_bytes(as_bytes(outcome))
        os.replace("result.part", "result.json")
    return 0


def forked(*world):
    child = os.fork()
    if child:
        return child
    status = 99
    try:
        status = life(*world)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def records():
    files = cache.glob("*/*.jsonl")
    return sum(path.read_bytes().count(b"\\n") - 1 for path in files if path.stat().st_size)


draw, kills, runs, window = random.Random(0), 0, [[0]], 0.08
while kills < kills_wanted:
    size = draw.choice([1, 1, 2])  # some lives have two processes, and one or both are killed
    children = [forked(rank, size) for rank in range(size)]
    time.sleep(draw.uniform(0.1, 1.0) * window)
    for child in children:
        os.kill(child, signal.SIGKILL)
    ended = [os.waitpid(child, 0)[1] for child in children]
    kills += any(os.WIFSIGNALED(status) for status in ended)
    seen = runs[-1]
    seen.append(records())
    # Lives are short, but not so short that none gets anywhere on a busy machine.
    window *= 1.3 if seen[-1] == seen[-2] else 0.9
    if Path("result.json").exists() and kills < kills_wanted:
        Path("result.json").unlink()  # faster than its killer: once more from the beginning
        shutil.rmtree(cache)
        runs.append([0])
        window /= 2
if not Path("result.json").exists():
    children = [forked(rank, 3) for rank in range(3)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
print(json.dumps({"kills": kills, "runs": runs}))
"""


def worker(folder, *words, code=WORKER):
    tests = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_killed_at_random_moments(tmp_path):
    lives = worker(tmp_path, str(KILLS))
    assert lives["kills"] >= KILLS
    assert lives["runs"] == [sorted(seen) for seen in lives["runs"]]  # no answer is ever lost
    assert len({n for seen in lives["runs"] for n in seen}) >= min(KILLS, 5)
    tasks = [TinyTask("one", 40, extra=[{"refuse": 1}, {"odd": 1}]), TinyTask("two", 30)]
    straight = evaluate(TinyModel(), tasks, templates=True)
    assert (tmp_path / "result.json").read_bytes() == as_bytes(straight)


DIES = """
import json, os, signal
from pathlib import Path
from tiny_eval import TinyModel, TinyTask, as_bytes
from llm_eval.engine.distributed import World
from llm_eval.engine.run import evaluate

tasks, reader = [TinyTask("one", 20)], None
model = TinyModel()
child = os.fork()
if child == 0:
    def die(done, total):
        if done >= 9:
            os.kill(os.getpid(), signal.SIGKILL)
    evaluate(model, tasks, cache=Path("cache"), world=World(1, 2), progress=die)
assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
outcome = evaluate(model, tasks, cache=Path("cache"), world=World(0, 2, patience=60.0))
same = as_bytes(outcome) == as_bytes(evaluate(TinyModel(), tasks))
print(json.dumps({"same": same, "notes": outcome.notes}))
"""


def test_a_process_that_is_killed_is_not_waited_for(tmp_path):
    told = worker(tmp_path, code=DIES)
    said = "other processes of 2 ended and left 7 batches unanswered; process 0 asked them"
    assert told == {"same": True, "notes": [said]}
