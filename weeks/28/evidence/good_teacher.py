"""SmolLM2 as a teacher: told, shown, given preferences, and rewarded for silence."""

import copy
import random

import numpy as np

from shared import plots
from shared.errors import UserError
from shared.measuring import pinned
from shared.study import PositiveFloat, PositiveInt, Run
from week18.gguf_tokenizer import GGUFTokenizer
from week18.llama3 import Llama
from week18.smollm2 import smollm2
from week20.adapter_folder import hugging_face_layer, save_adapter
from week20.domain_lora import with_lora
from week20.lora import adapter_state, load_adapter_state
from week28 import chatting
from week28.evidence.teacher_checks import (
    check_numbers,
    check_smollm2,
    check_training,
    judge_the_judge,
    tiny,
)
from week28.evidence.teacher_judge import (
    Judged,
    Knowledge,
    Material,
    judge,
    knowledge,
    material,
)
from week28.good_teacher import (
    LONGEST,
    RUBRIC,
    draw_pairs,
    gained,
    imitate,
    known,
    prefer,
    preference,
    reply,
    shuffled,
    upper_layers,
)

SEEN = "runs on other lessons (seeds 7, 100), from which rates and steps were chosen"
COLUMNS = ("asks", "one step", "checks", "keeps\nthe answer", "names\nthe step")


def main(
    run: Run,
    *,
    sft_steps: PositiveInt = 14,
    dpo_steps: PositiveInt = 8,
    sft_lr: PositiveFloat = 3e-3,
    dpo_lr: PositiveFloat = 3e-4,
    chat: bool = False,
) -> None:
    """Teach SmolLM2 to teach; judge it on other problems, in other words.

    Parameters
    ----------
    sft_steps, dpo_steps
        Training steps, of four replies and of two pairs.
    sft_lr, dpo_lr
        Learning rates at the first step.
    chat
        Talk to the teacher that an earlier run has trained, and nothing else.
    """
    if chat:
        chatting.chat(reply)
        return
    check_numbers(run)
    judge_the_judge(run)
    check_training(run)
    steps = {"sft": (sft_steps, sft_lr), "dpo": (dpo_steps, dpo_lr)}
    if run.mode == "quick":
        rehearsal = {"sft": (2, 1e-2), "dpo": (2, 1e-2)}
        teach(run, *tiny(run), rehearsal)
        return
    try:
        with pinned(1):  # more threads are slower on a busy machine
            model, tokenizer = smollm2()
            check_smollm2(run, model, tokenizer)
            teach(run, model.bfloat16(), tokenizer, steps)
    except UserError as error:  # a package or a file is missing
        run.say(f"SmolLM2 is left out: {error}")


def teach(run: Run, model: Llama, tokenizer: GGUFTokenizer, steps: dict) -> None:
    """As it is, told the rubric, SFT, SFT and DPO; the controls; and one that learns silence."""
    sizes = {"labeled": 240, "prompts": 12, "pairs": 12, "windows": 8, "questions": 16}
    sizes |= run.budget(
        quick={"labeled": 120, "prompts": 4, "pairs": 4, "windows": 2, "questions": 3},
        default={},
        full={"prompts": 64, "pairs": 64, "windows": 16},
    )
    most = run.budget(quick=4, default=LONGEST, full=2 * LONGEST)
    by = material(tokenizer, run.seed, sizes)
    chance = random.Random(run.seed)
    n = run.budget(quick=8, default=12, full=64)
    shown = [preference(tokenizer, p) for p in draw_pairs(4 * n, chance)]
    drawn = draw_pairs(n, chance)
    # A reward for keeping the answer, and for keeping it short.
    quiet = draw_pairs(n, chance, good="silent", bad=("good", "tells"))
    pairs, turned, silent = (
        [preference(tokenizer, p) for p in some] for some in (drawn, shuffled(drawn, chance), quiet)
    )
    found = {"as it is": judge(model, tokenizer, by, most)}
    found["told the rubric"] = judge(model, tokenizer, by, most, RUBRIC)
    before = knowledge(model, tokenizer, by)

    config = upper_layers(model)
    with_lora(model, config, run.seed)
    (sft, sft_lr), (dpo, dpo_lr) = steps["sft"], steps["dpo"]
    imitated = list(imitate(model, shown, steps=sft, batch_size=4, lr=sft_lr, seed=run.seed))
    found["SFT"] = judge(model, tokenizer, by, most)
    start = copy.deepcopy(adapter_state(model))
    reference = known(model, by.pairs)

    def by_preferences(some: list, lr: float = dpo_lr) -> list[float]:
        load_adapter_state(model, start)
        options = {"steps": dpo, "batch_size": 2, "lr": lr, "seed": run.seed}
        return list(prefer(model, some, known(model, some), **options))

    losses = {"shuffled": by_preferences(turned)}
    control = gained(known(model, by.pairs), reference).tolist()
    losses["DPO"] = by_preferences(pairs)
    found["SFT and DPO"] = judge(model, tokenizer, by, most)
    liked = gained(known(model, by.pairs), reference).tolist()
    if run.mode != "quick":  # the tiny model's corrections fit no other
        save_adapter(model, run.out / "adapter", config, rename=hugging_face_layer)
    after = knowledge(model, tokenizer, by)
    by_preferences(silent, 3 * dpo_lr)
    found["learned silence"] = judge(model, tokenizer, by, most)
    tell(run, by, found, (liked, control))
    tell_knowledge(run, before, after)
    third = max(1, sft // 3)
    run.metric("SFT's loss, first steps", np.mean(imitated[:third]), "nats/token", rtol=None)
    run.metric("SFT's loss, last steps", np.mean(imitated[-third:]), "nats/token", rtol=None)
    for name, values in losses.items():
        run.metric(f"DPO's loss, last steps, {name}", np.mean(values[-3:]), rtol=None)


def tell(run: Run, by: Material, found: dict[str, Judged], held_out: tuple) -> None:
    """Claims on replies and preferences, what each teacher said, and the figure."""
    late = {"quick": False, "rtol": None, "seen_before": SEEN}
    told, sft, dpo = (found[name] for name in ("told the rubric", "SFT", "SFT and DPO"))
    better = "SFT meets more of the rubric than being told it does"
    run.claim(better, sft.score - told.score, at_least=0.2, **late)
    run.claim("DPO adds to that", dpo.score - sft.score, at_least=0.0, **late)
    fewer = found["as it is"].states - dpo.states
    run.claim(
        "the teacher states results less often than the assistant", fewer, at_least=0.2, **late
    )
    run.claim("its question names what is to be found first", dpo.names, at_least=0.5, **late)
    liked, control = held_out
    name = "after DPO the better of two held-out replies has gained on the other"
    run.claim(name, liked, at_least=1.0, unit="nats", **late)
    run.falsifier("preferences shuffled", control, breaks=name)
    silent = found["learned silence"]
    hollow = silent.marks[:, 3] - silent.marks[:, [0, 2]].mean(1)
    run.claim(
        "who is rewarded for silence keeps the answer and teaches less",
        hollow,
        at_least=0.3,
        **late,
    )
    for teacher, each in found.items():
        run.say(f"{teacher}: {each.replies[0]!r}")
        run.metric(f"rubric, {teacher}", each.score.mean(), rtol=None)
        run.metric(f"keeps the answer, {teacher}", each.marks[:, 3].mean(), rtol=None)
        run.metric(f"states a result, {teacher}", each.states.mean(), rtol=None)
        run.metric(f"names the step, {teacher}", each.names.mean(), rtol=None)
        words = np.mean([len(text.split()) for text in each.replies])
        run.metric(f"words, {teacher}", words, rtol=None)
    with run.figure("marks", "Which marks of the rubric does each teacher get?") as axes:
        table = np.array([[*e.marks.mean(0), e.names.mean()] for e in found.values()])
        options = {"rows": list(found), "columns": COLUMNS, "limits": (0, 1)}
        plots.heat_map(axes, table, label=f"share of {len(by.given)} replies", **options)
        for (i, j), share in np.ndenumerate(table):
            ink = "white" if share > 0.6 else plots.REFERENCE
            axes.text(j, i, f"{share:.2f}", ha="center", va="center", color=ink)


def tell_knowledge(run: Run, before: Knowledge, after: Knowledge) -> None:
    """What training to teach has cost."""
    seen = "one run on other lessons (seed 7): 0.1 ± 0.2 of the quiz, 0.11 ± 0.03 nats"
    late = {"quick": False, "rtol": None, "seen_before": seen}
    lost = before.right - after.right
    run.claim("it loses less than a tenth of a quiz", lost, at_most=0.1, **late)
    name = "it loses less than 0.1 nats of WikiText-2"
    run.claim(name, after.nats - before.nats, at_most=0.1, unit="nats/token", **late)
    for when, each in {"before": before, "after": after}.items():
        run.metric(f"quiz, {when}", each.right.mean(), rtol=None)
        run.metric(f"perplexity, {when}", np.exp(each.nats.mean()), rtol=None)
