"""Chats and labels against transformers and trl; packing against rows alone; answers that stop."""

import copy
import statistics

import torch
from torch import Tensor

from shared import plots, pretrained
from shared.study import PositiveFloat, Run, UserError
from week18.llama3 import Llama, LlamaConfig
from week18.smollm2 import continue_greedily, smollm2
from week18.transformers_twin import randomize, transformers_twin
from week20.instructions import Task, generated, shuffled_answers, tokenizer, written
from week20.lora import LoRAConfig, inject, trainable
from week20.sft import (
    IGNORE,
    Example,
    chat_example,
    chat_prompt,
    collate,
    count_labels,
    fine_tune,
    pack,
    packed_logits,
    response_loss,
)

SIZES = {"d_model": 64, "n_layers": 2, "n_heads": 4, "context": 64, "rope_base": 1e4}
LONGEST = 12  # characters of an answer; the right ones have at most eight
# ChatML as in the model's file, with the part marked whose tokens are the assistant's.
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{'<|im_start|>assistant\\n'}}"
    "{% generation %}{{m['content'] + '<|im_end|>'}}{% endgeneration %}{{'\\n'}}{% else %}"
    "{{'<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n'}}{% endif %}{% endfor %}"
)


def main(run: Run, *, lr: PositiveFloat = 3e-3) -> None:
    """Check labels, batches and packing; teach a small model four tasks, SmolLM2 a few answers.

    Parameters
    ----------
    lr
        Peak learning rate of the small models.
    """
    check_batches(run)
    check_packing(run)
    torch.set_num_threads(1)  # products this small are slower on several threads
    learn_tasks(run, lr)
    torch.set_num_threads(run.threads)
    try:
        pretrained.smollm2()
        tasks = written() if run.mode != "quick" else []
    except UserError as error:
        run.say(f"{error}; without it no real model is tuned")
        return
    if tasks:
        tune_smollm2(run, tasks)


# ---- checks


def some_examples(run: Run, n: int, vocab: int) -> list[Example]:
    """Random tokens of which some are learned."""
    draw, found = run.generator(1), []
    for _ in range(n):
        size = int(torch.randint(5, 20, (1,), generator=draw))
        ids = torch.randint(vocab, (size,), generator=draw)
        learned = torch.rand(len(ids), generator=draw) < 0.5
        learned[-1] = True
        found.append(Example(ids.tolist(), ids.where(learned, torch.tensor(IGNORE)).tolist()))
    return found


def small_model(run: Run) -> Llama:
    """Random weights, large enough to matter."""
    config = LlamaConfig(48, 32, 2, 4, 2, d_ff=48, context=128, rope_base=1e4)
    return randomize(Llama(config), seed=run.seed)


def check_batches(run: Run) -> None:
    """Padded batches and their loss, in pieces too."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    rows, model = some_examples(run, 6, 48), small_model(run)
    batch = collate(rows, pad=3)
    features = [{"input_ids": ids, "labels": labels} for ids, labels in rows]
    theirs = DataCollatorForLanguageModeling(pad_token_id=3)(features)
    equal = run.against("trl's DataCollatorForLanguageModeling", why="the same integers")
    equal("padded tokens", batch.tokens, theirs["input_ids"])
    equal("padded labels", batch.labels, theirs["labels"])
    equal("mask", batch.mask, theirs["attention_mask"])
    why = {"atol": 1e-5, "rtol": 1e-5, "why": "float32 sums in another order"}
    twin, own = transformers_twin(model), count_labels(batch.labels)
    their_loss = twin(batch.tokens, attention_mask=batch.mask.long(), labels=batch.labels).loss
    equal = run.against("transformers, labels=…", **why)
    loss = response_loss(model(batch.tokens), batch.labels)
    equal("loss on responses", loss, their_loss)
    loss.backward()
    their_loss.backward()
    their_gradient = twin.model.layers[0].self_attn.q_proj.weight.grad
    equal("gradient of the first queries", model.blocks[0].q_proj.weight.grad, their_gradient)
    whole = model.blocks[0].q_proj.weight.grad.clone()
    model.zero_grad()
    means = []
    for part in (rows[:1], rows[1:]):
        piece = collate(part, pad=3)
        response_loss(model(piece.tokens), piece.labels, own).backward()
        means.append(response_loss(model(piece.tokens), piece.labels).item())
    equal = run.against("one batch", kind="consistency", **why)
    equal("gradient of a batch in two pieces", model.blocks[0].q_proj.weight.grad, whole)
    error = abs(statistics.mean(means) - loss.item())
    run.metric("error of a mean of two means", error, "nats/token", rtol=0.1)


def check_packing(run: Run) -> None:
    """Conversations in one row: as transformers sees them, and as if each were alone."""
    rows, model = some_examples(run, 5, 48), small_model(run)
    batch, full = collate(rows), sum(len(row.ids) for row in rows)
    tokens, labels, positions, documents = (
        torch.stack(part) for part in zip(*pack(rows, full), strict=True)
    )
    logits = packed_logits(model, tokens, positions, documents)
    theirs = transformers_twin(model)(tokens, position_ids=positions, use_cache=False).logits
    why = {"atol": 1e-4, "rtol": 1e-4, "why": "float32 sums in another order"}
    name = "transformers, packed by its positions"
    run.check("packed logits", logits, theirs.detach(), against=name, **why)
    packed, alone = response_loss(logits, labels), response_loss(model(batch.tokens), batch.labels)
    gradients = [torch.autograd.grad(x, list(model.parameters())) for x in (packed, alone)]
    equal = run.against("each conversation alone", kind="consistency", **why)
    equal("packed loss", packed, alone)
    flat = [torch.cat([g.flatten() for g in one]) for one in gradients]
    equal("packed gradients", *flat)
    run.metric("share of padding, one conversation per row", 1 - batch.mask.float().mean())
    changed = torch.where(documents == 0, (tokens + 1) % 48, tokens)
    seen = documents > 0  # what the first conversation says must not matter to the others
    with torch.no_grad():
        moved = packed_logits(model, changed, positions, documents)[seen] - logits[seen]
        leak = (model(changed) - model(tokens))[seen]
    alone = "conversations in one row do not see each other"
    run.claim(alone, moved.abs().max().item(), at_most=0.0, deterministic=True, unit="of a logit")
    run.falsifier("no document mask", leak.abs().max().item(), breaks=alone)


# ---- a small model learns to answer


def as_example(t, task: Task) -> Example:
    """One question and its answer."""
    return chat_example(t, [("user", task.prompt), ("assistant", task.answer)])


def without_ends(examples: list[Example], end: int) -> list[Example]:
    """The classic mistake: padding is the end's id, and what has that id is not learned."""
    return [
        Example(ids, [IGNORE if label == end else label for label in labels])
        for ids, labels in examples
    ]


@torch.no_grad()
def loss_on(model: Llama, examples: list[Example]) -> float:
    """Held-out loss on responses."""
    batch = collate(examples)
    return response_loss(model(batch.tokens), batch.labels).item()


def answers(model: Llama, t, tasks: list[Task]) -> tuple[float, float]:
    """Shares of greedy answers that are right, and that end."""
    end, right, ended = t.special_tokens["<|im_end|>"], [], []
    for task in tasks:
        prompt = chat_prompt(t, [("user", task.prompt)])
        found = continue_greedily(model, prompt, LONGEST, end)
        right.append(t.decode(found) == task.answer)
        ended.append(len(found) < LONGEST)
    return statistics.mean(right), statistics.mean(ended)


def learn_tasks(run: Run, lr: float) -> None:
    """Right answers, answers of other questions, and answers whose ends are not learned."""
    seeds = run.budget(quick=2, default=3, full=6)
    steps = run.budget(quick=4, default=200, full=300)
    asked, t = run.budget(quick=2, default=40), tokenizer()
    end = t.special_tokens["<|im_end|>"]
    arms = ("right answers", "shuffled answers", "ends not learned")
    falls, right, stops, curves = ({name: [] for name in arms} for _ in range(4))
    for seed in range(seeds):
        tasks = generated(1000, run.generator(10 + seed))
        # words that training has not seen, so that nothing can be known by heart
        known = {task.prompt for task in tasks}
        fresh = [x for x in generated(400, run.generator(50 + seed)) if x.prompt not in known]
        held_out = [as_example(t, task) for task in fresh]
        rows = {"right answers": [as_example(t, task) for task in tasks]}
        other = shuffled_answers(tasks, run.generator(90 + seed))
        rows["shuffled answers"] = [as_example(t, task) for task in other]
        rows["ends not learned"] = without_ends(rows["right answers"], end)
        base = Llama(LlamaConfig(len(t), **SIZES), run.generator(20 + seed))
        before = loss_on(base, held_out)
        for name in arms:
            net, draw = copy.deepcopy(base), run.generator(30 + seed)
            # whether an answer ends is learned in a fraction of the time
            n = steps // 4 if name == "ends not learned" else steps
            options = {"steps": n, "lr": lr, "generator": draw, "batch_size": 16}
            curves[name].append(list(fine_tune(net, rows[name], pad=end, **options)))
            falls[name].append(before - loss_on(net, held_out))
            share = answers(net, t, fresh[:asked])
            right[name].append(share[0])
            stops[name].append(share[1])
    late = {"quick": False, "rtol": None}
    learns = "questions that were not trained on are answered"
    seen = "three of these seeds: 0.33 ± 0.06, and 0.07 ± 0.09 with shuffled answers"
    run.claim(learns, right["right answers"], at_least=0.15, seen_before=seen, **late)
    run.falsifier("shuffled answers", right["shuffled answers"], breaks=learns)
    stop = "answers end"
    run.claim(stop, stops["right answers"], at_least=0.9, each=True, **late)
    run.falsifier("ends not learned", stops["ends not learned"], breaks=stop)
    for name in arms:
        fall = statistics.mean(falls[name])
        run.metric(f"fall of the held-out loss, {name}", fall, "nats/character", rtol=None)
        run.metric(f"right answers, {name}", statistics.mean(right[name]), rtol=None)
        run.metric(f"answers that end, {name}", statistics.mean(stops[name]), rtol=None)
    title = "Is the answer learned, or only its form?"
    with run.figure("answers", title) as axes:
        smooth = {name: smoothed(torch.tensor(curves[name])) for name in arms[:2]}
        level = {"guessing a character": float(torch.tensor(float(len(t))).log())}
        labels = {"xlabel": "step", "ylabel": "loss on responses (nats per character)"}
        plots.curves(axes, range(steps), smooth, reference=level, ends=False, **labels)


def smoothed(losses: Tensor) -> Tensor:
    """Running means of some steps."""
    width = min(9, losses.shape[1])
    means = [losses[:, max(0, i - width) : i + 1].mean(1) for i in range(losses.shape[1])]
    return torch.stack(means, dim=1)


# ---- a real one


def check_chats(run: Run, t, tasks: list[Task]) -> None:
    """transformers reads the tokenizer of the file and marks the assistant's tokens."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    path = pretrained.smollm2()
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    options = {"chat_template": TEMPLATE, "return_dict": True, "return_assistant_tokens_mask": True}
    ids, masks = ([], []), ([], [])
    for task in tasks:
        turns = [("system", "Be brief.")] + [("user", task.prompt), ("assistant", task.answer)] * 2
        ours = chat_example(t, turns)
        messages = [{"role": role, "content": text} for role, text in turns]
        found = theirs.apply_chat_template(messages, **options)
        ids[0].extend(ours.ids)
        ids[1].extend(found["input_ids"])
        masks[0].extend(label != IGNORE for label in ours.labels)
        masks[1].extend(found["assistant_masks"])
    equal = run.against("transformers, apply_chat_template", why="the same integers")
    equal("tokens of conversations", torch.tensor(ids[0]), torch.tensor(ids[1]))
    equal("which tokens are learned", torch.tensor(masks[0]), torch.tensor(masks[1]).bool())


def tune_smollm2(run: Run, tasks: list[Task]) -> None:
    """Some steps of LoRA on short written instructions; others judge."""
    model, t = smollm2()
    check_chats(run, t, tasks[:20])
    rows = [as_example(t, task) for task in tasks]
    short = [row for row in rows if len(row.ids) <= 40]
    n = run.budget(quick=2, default=8, full=12)
    held_out, training = short[-n:], short[:-n]
    run.metric("written instructions to learn from", len(training), rtol=0)
    inject(model, LoRAConfig(8, 16), run.generator(7))
    run.metric("numbers trained, SmolLM2", trainable(model)[0], rtol=0)

    def losses() -> list[float]:
        return [loss_on(model, [row]) for row in held_out]

    before = losses()
    steps = run.budget(quick=1, default=3, full=5)
    options = {"steps": steps, "lr": 1e-3, "batch_size": 4, "generator": run.generator(8)}
    list(fine_tune(model, training, **options))
    gains = [a - b for a, b in zip(before, losses(), strict=True)]
    late = {"unit": "nats/token", "note": f"{steps} steps of 4 conversations", "rtol": None}
    run.claim("SmolLM2 answers held-out instructions better", gains, at_least=0.0, **late)
    run.metric("held-out loss of SmolLM2 before", statistics.mean(before), "nats/token", rtol=0.05)
