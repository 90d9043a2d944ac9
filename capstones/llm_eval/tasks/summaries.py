"""Numbers that a task's metrics do not give, by name.

Each is a function of the samples, named by its module, which is imported when a task wants it.

>>> SUMMARIES["bbq"]
'llm_eval.fairness.bbq:bbq'
"""

SUMMARIES = {
    "bbq": "llm_eval.fairness.bbq:bbq",
    "crows_pairs": "llm_eval.fairness.crows_pairs:crows_pairs",
    "winobias": "llm_eval.fairness.winobias:winobias",
    "counterfactual": "llm_eval.fairness.counterfactual:counterfactual",
    "groups": "llm_eval.fairness.groups:groups",
    "toxicity": "llm_eval.safety.toxicity:toxicity",
    "halueval": "llm_eval.safety.halueval:halueval",
    "abstention": "llm_eval.safety.abstention:abstention",
    "selfcheck": "llm_eval.safety.selfcheck:selfcheck",
    "calibration": "llm_eval.metrics.calibration:calibration",
}
