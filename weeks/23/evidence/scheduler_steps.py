"""Each step of both samplers beside diffusers' schedulers, in float64 and with the same noise."""

import itertools

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor

from shared.study import Run
from week23.schedules import Kind, Schedule, ancestral_step, ddim_step

STEPS = 40
THEIRS: dict[Kind, str] = {"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}


def check_schedules(run: Run) -> None:
    """What is left of the data after each of a thousand steps, three schedules."""
    names = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
    limits = {"scaled_linear": (0.00085, 0.012)}
    same = run.against("diffusers' DDPMScheduler", rtol=1e-4, why="a thousand float32 products")
    for name, other in names.items():
        first, last = limits.get(name, (1e-4, 0.02))
        theirs = DDPMScheduler(beta_schedule=other, beta_start=first, beta_end=last)
        schedule = getattr(Schedule, name)(1000)
        same(f"ᾱ of the {name} schedule", schedule.alphas_bar, theirs.alphas_cumprod)
        same(f"β of the {name} schedule", schedule.betas, theirs.betas, rtol=2e-4)


def in_float64(scheduler, schedule: Schedule):
    """The same scheduler with the products of its variances in double precision."""
    scheduler.alphas_cumprod = schedule.alphas_bar
    return scheduler


def check_steps(run: Run) -> None:
    """All times, all kinds of prediction, clipped and not."""
    schedule = Schedule.linear(STEPS, 1e-3, 0.3)
    common = {"num_train_timesteps": STEPS, "trained_betas": schedule.betas.tolist()}
    why = "float64 rounding; diffusers keeps 1e-20 of variance where there is none"
    ancestral = run.against("diffusers' DDPMScheduler", atol=1e-9, why=why)
    implicit = run.against("diffusers' DDIMScheduler", atol=1e-9, why="float64 rounding")
    for kind, clip in itertools.product(THEIRS, (None, 1.0)):
        options = {"kind": kind, "clip": clip}
        settings = {"prediction_type": THEIRS[kind], "clip_sample": clip is not None}
        name = f"{kind}, " + ("clipped" if clip else "not clipped")
        ours, theirs = [], []
        for variance, steps in (("small", STEPS), ("large", STEPS), ("small", 8)):
            other = DDPMScheduler(
                **common,
                **settings,
                variance_type=f"fixed_{variance}",
                timestep_spacing="trailing",
            )
            other.set_timesteps(steps)
            extra = options | {"variance": variance}
            for t, s, x, prediction, noise in walk(run, schedule, steps):
                found = in_float64(other, schedule).step(prediction, t, x, run.generator(t))
                ours.append(ancestral_step(schedule, prediction, x, t, s, noise=noise, **extra))
                theirs.append(found.prev_sample)
        ancestral(f"ancestral steps, {name}", torch.stack(ours), torch.stack(theirs))
        ours, theirs = [], []
        other = DDIMScheduler(**common, **settings, timestep_spacing="trailing")
        for eta, steps in itertools.product((0.0, 0.5, 1.0), (STEPS, 8)):
            other.set_timesteps(steps)
            for t, s, x, prediction, noise in walk(run, schedule, steps):
                extra = options | {"eta": eta, "noise": noise}
                ours.append(ddim_step(schedule, prediction, x, t, s, **extra))
                again = {"eta": eta, "use_clipped_model_output": True, "variance_noise": noise}
                found = in_float64(other, schedule).step(prediction, t, x, **again)
                theirs.append(found.prev_sample)
        implicit(f"DDIM steps, {name}", torch.stack(ours), torch.stack(theirs))


def noise_on_the_data(run: Run) -> None:
    """With a large variance and a last time above 0 diffusers adds noise to the data themselves."""
    schedule = Schedule.linear(STEPS, 1e-3, 0.3)
    common = {"trained_betas": schedule.betas.tolist(), "timestep_spacing": "trailing"}
    other = DDPMScheduler(STEPS, **common, clip_sample=False, variance_type="fixed_large")
    other.set_timesteps(8)
    *_, (t, s, x, prediction, noise) = walk(run, schedule, 8)
    found = in_float64(other, schedule).step(prediction, t, x, run.generator(t)).prev_sample
    data = ancestral_step(schedule, prediction, x, t, s, noise=noise, variance="large")
    added = ((found - data) / noise).mean()
    run.metric("deviation of what diffusers adds to the data, 8 steps of 40", float(added))


def walk(run: Run, schedule: Schedule, steps: int):
    """Times from last to first with inputs of a plausible size, and the noise of each time."""
    times = schedule.times(steps)
    for t, s in zip(times, [*times[1:], -1], strict=True):
        g = run.generator(1000 + t)
        x, prediction = (torch.randn(3, 5, generator=g, dtype=torch.double) for _ in range(2))
        yield t, s, x, prediction, noise_at(run, t)


def noise_at(run: Run, t: int) -> Tensor:
    """What diffusers draws at time t from a generator seeded with t."""
    return torch.randn(3, 5, generator=run.generator(t), dtype=torch.double)


def check_oracle(run: Run) -> None:
    """An oracle that says noise, data, velocity or score: one trajectory, and it ends in data."""
    schedule = Schedule.cosine(STEPS)
    g = run.generator(7)
    x0, start = (torch.randn(4, 3, generator=g, dtype=torch.double) for _ in range(2))
    ends = []
    for kind in ("epsilon", "x0", "v", "score"):
        x, path = start, []
        times = schedule.times(10)
        for t, s in zip(times, [*times[1:], -1], strict=True):
            prediction = schedule.convert(x0, x, t, "x0", kind)
            x = ddim_step(schedule, prediction, x, t, s, kind=kind)
            path.append(x)
        ends.append(torch.stack(path))
    same = {"kind": "consistency", "why": "float64 rounding, divided by little signal"}
    others, first = torch.stack(ends[1:]), ends[0].expand(3, -1, -1, -1)
    name = "one oracle in four kinds, ten steps"
    run.check(name, others, first, against="the trajectory by ε", atol=1e-9, **same)
    exact = {"kind": "theorem", "why": "float64 rounding"}
    run.check("where it ends", ends[0][-1], x0, against="the data", atol=1e-12, **exact)
