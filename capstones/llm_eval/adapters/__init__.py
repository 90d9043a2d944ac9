"""The metrics as modules of `evaluate`, each a file that it loads by path, without a network.

    bleu = evaluate.load("capstones/llm_eval/adapters/bleu.py")
    bleu.compute(predictions=["the cat sat"], references=[["the cat sat down"]])

Results carry the signature of what was computed. Options are those of the metric's function.
"""
