"""`evaluate` loads the metrics by path without a network, and they give what the libraries give."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from llm_eval import adapters

FOLDER = Path(adapters.__file__).parent
NAMES = ["bleu", "chrf", "ter", "rouge"]
PREDICTIONS = ["the cats sat on the mat", "a dog barks at night"]
REFERENCES = [["the cat sat on the mat", "on the mat a cat sat"], ["at night a dog barks", None]]

PROGRAM = """
import json, socket, sys

def refuse(*_):
    raise OSError("no network in this test")

socket.socket.connect = socket.getaddrinfo = refuse
sys.modules["transformers"] = None  # else evaluate imports it, which takes long
import evaluate

del sys.modules["transformers"]
folder, names, predictions, references = json.loads(sys.argv[1])
found = {}
for name in names:
    module = evaluate.load(f"{folder}/{name}.py")
    many = module.compute(predictions=predictions, references=references)
    one = module.compute(predictions=predictions, references=[texts[0] for texts in references])
    found[name] = [many, one]
bleu = evaluate.load(f"{folder}/bleu.py")
options = {"smooth_method": "floor", "lowercase": True}
found["options"] = bleu.compute(predictions=["A"], references=["a"], **options)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    names = [*NAMES, *(["squad"] if find_spec("llm_eval.metrics.answers") else [])]
    offline = {"HF_EVALUATE_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    home = {"HF_HOME": str(tmp_path_factory.mktemp("hf"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([str(FOLDER), names, PREDICTIONS, REFERENCES])],
        env=os.environ | offline | home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["bleu", "chrf", "ter"])
def test_scores_are_sacrebleus(found, name):
    from sacrebleu import metrics

    metric = {"bleu": metrics.BLEU, "chrf": metrics.CHRF, "ter": metrics.TER}[name]()
    streams = list(zip(*REFERENCES, strict=True))
    many, one = found[name]
    theirs = metric.corpus_score(PREDICTIONS, streams)
    assert many["score"] == pytest.approx(theirs.score, abs=1e-10)
    assert many["signature"].startswith("nrefs:var|case:")
    assert many["signature"].split("|")[:-1] == str(metric.get_signature()).split("|")[:-1]
    assert one["score"] == pytest.approx(metric.corpus_score(PREDICTIONS, streams[:1]).score)
    assert one["signature"].startswith("nrefs:1|")


def test_rouge_is_the_mean_of_rouge_scores(found):
    from rouge_score.rouge_scorer import RougeScorer

    many, one = found["rouge"]
    for kind in ("rouge1", "rouge2", "rougeL", "rougeLsum"):
        scorer = RougeScorer([kind])
        scores = [
            scorer.score(target, prediction)[kind].fmeasure
            for prediction, (target, *_) in zip(PREDICTIONS, REFERENCES, strict=True)
        ]
        assert one[kind] == pytest.approx(sum(scores) / 2, abs=1e-12)
        assert many[kind] >= one[kind]


def test_options_reach_score_and_signature(found):
    assert "case:lc" in found["options"]["signature"]
    assert "smooth:floor[0.10]" in found["options"]["signature"]
    assert found["options"]["counts"] == [1, 0, 0, 0]


def test_squad(found):
    if "squad" not in found:
        pytest.skip("llm_eval.metrics.answers is not there")
    many, one = found["squad"]
    assert many["exact_match"] == 0
    assert one["f1"] == pytest.approx(100 * (3 / 4 + 1) / 2)
