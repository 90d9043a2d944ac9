"""Every step beside diffusers' schedulers; conversions, posteriors and samplers; bad input."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from week23.schedules import KINDS, Schedule, ancestral_step, ddim_step, sample_ddim, sample_ddpm

THEIRS = {"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}
kinds, clips = st.sampled_from(list(THEIRS)), st.sampled_from([None, 0.7])
seeds = st.integers(0, 9999)


def draw(seed, n=3, shape=(2, 4)):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g, dtype=torch.double) for _ in range(n)]


def theirs_of(kind, schedule, clip, kls, **options):
    scheduler = kls(
        len(schedule),
        trained_betas=schedule.betas.tolist(),
        prediction_type=THEIRS[kind],
        clip_sample=clip is not None,
        clip_sample_range=clip or 1.0,
        timestep_spacing="trailing",
        **options,
    )
    scheduler.alphas_cumprod = schedule.alphas_bar
    return scheduler


def pairs_of(times):
    return list(zip(times, [*times[1:], -1], strict=True))


@given(seeds, kinds, clips, st.sampled_from([30, 10, 5]), st.sampled_from(["small", "large"]))
def test_ancestral_steps_are_those_of_diffusers(seed, kind, clip, steps, variance):
    schedule = Schedule.linear(30, 1e-3, 0.3)
    theirs = theirs_of(kind, schedule, clip, DDPMScheduler, variance_type=f"fixed_{variance}")
    theirs.set_timesteps(steps)
    assert schedule.times(steps) == theirs.timesteps.tolist()
    for t, s in pairs_of(schedule.times(steps)):
        x, prediction, _ = draw(seed + t)
        g = torch.Generator().manual_seed(seed)
        noise = torch.randn(x.shape, generator=g, dtype=x.dtype)
        options = {"kind": kind, "clip": clip, "variance": variance, "noise": noise}
        ours = ancestral_step(schedule, prediction, x, t, s, **options)
        if s < 0 and t > 0 and variance == "large":
            continue  # diffusers adds noise to the data themselves if the last time is not 0
        other = theirs.step(prediction, t, x, torch.Generator().manual_seed(seed)).prev_sample
        torch.testing.assert_close(ours, other, atol=1e-9, rtol=1e-9)


@given(seeds, kinds, clips, st.sampled_from([30, 10, 5]), st.sampled_from([0.0, 0.4, 1.0]))
def test_ddim_steps_are_those_of_diffusers(seed, kind, clip, steps, eta):
    schedule = Schedule.linear(30, 1e-3, 0.3)
    theirs = theirs_of(kind, schedule, clip, DDIMScheduler)
    theirs.set_timesteps(steps)
    for t, s in pairs_of(schedule.times(steps)):
        x, prediction, noise = draw(seed + t)
        options = {"kind": kind, "clip": clip, "eta": eta, "noise": noise}
        ours = ddim_step(schedule, prediction, x, t, s, **options)
        again = {"eta": eta, "use_clipped_model_output": True, "variance_noise": noise}
        other = theirs.step(prediction, t, x, **again).prev_sample
        torch.testing.assert_close(ours, other, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("steps", [1, 7, 1000])
def test_schedules_are_those_of_diffusers(steps):
    names = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
    limits = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012), "cosine": (1e-4, 0.02)}
    for name, other in names.items():
        low, high = limits[name]
        theirs = DDPMScheduler(steps, beta_schedule=other, beta_start=low, beta_end=high)
        ours = getattr(Schedule, name)(steps)
        close = {"rtol": 2e-4, "atol": 0.0, "check_dtype": False}
        torch.testing.assert_close(ours.alphas_bar, theirs.alphas_cumprod, **close)
        torch.testing.assert_close(ours.betas, theirs.betas, **close)


@given(seeds, st.sampled_from(KINDS), st.sampled_from(KINDS))
def test_conversions_return_and_agree_with_the_forward_process(seed, kind, other):
    schedule = Schedule.cosine(50)
    x0, noise, _ = draw(seed, shape=(5, 3))
    t = torch.tensor([0, 10, 20, 30, 40])
    x = schedule.add_noise(x0, noise, t)
    a = schedule.alphas_bar[t, None]
    known = {"epsilon": noise, "x0": x0, "v": a.sqrt() * noise - (1 - a).sqrt() * x0}
    known["score"] = -noise / (1 - a).sqrt()
    found = schedule.convert(known[kind], x, t, kind, other)
    torch.testing.assert_close(found, known[other], atol=1e-7, rtol=1e-7)


@given(seeds, st.integers(0, 29), st.integers(1, 20))
def test_the_posterior_is_the_product_of_two_gaussians(seed, t, back):
    """Precisions add up: x at s given the data, times x at t given x at s."""
    schedule, s = Schedule.linear(30, 1e-3, 0.3), max(t - back, 0)
    if s == t:
        return
    x, x0, _ = draw(seed)
    now, then = schedule.alphas_bar[t], schedule.alphas_bar[s]
    kept = now / then
    precision = 1 / (1 - then) + kept / (1 - kept)
    mean = (then.sqrt() * x0 / (1 - then) + kept.sqrt() * x / (1 - kept)) / precision
    found, variance = schedule.posterior(x, x0, t, s)
    torch.testing.assert_close(found, mean)
    torch.testing.assert_close(variance, 1 / precision)


def test_a_walk_through_all_steps_is_one_jump_of_the_forward_process():
    schedule = Schedule.linear(20, 1e-3, 0.3)
    x, variance = torch.ones(1, 1, dtype=torch.double), 0.0
    for beta in schedule.betas:
        x, variance = (1 - beta).sqrt() * x, (1 - beta) * variance + beta
    mean = schedule.add_noise(torch.ones(1, 1).double(), torch.zeros(1, 1).double(), 19)
    torch.testing.assert_close(mean, x)
    torch.testing.assert_close(1 - schedule.alphas_bar[-1], variance)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 3, 20])
def test_an_oracle_is_led_to_its_data(eta, steps):
    schedule = Schedule.cosine(20)
    x0, start, _ = draw(1)
    for kind in KINDS:
        oracle = lambda x, t, kind=kind: schedule.convert(x0, x, t, "x0", kind)  # noqa: E731
        g = torch.Generator().manual_seed(0)
        options = {"kind": kind, "steps": steps, "generator": g}
        torch.testing.assert_close(sample_ddim(oracle, schedule, start, eta=eta, **options), x0)
        torch.testing.assert_close(sample_ddpm(oracle, schedule, start, **options), x0)


def test_samplers_visit_their_times_and_keep_the_type():
    schedule, seen = Schedule.linear(12), []

    def model(x, t):
        seen.append(t.tolist())
        return torch.zeros_like(x)

    x = sample_ddim(model, schedule, torch.ones(2, 1, 3, 3), steps=4)
    assert seen == [[11, 11], [8, 8], [5, 5], [2, 2]]
    assert (x.dtype, x.shape) == (torch.float32, (2, 1, 3, 3))
    assert not x.requires_grad


def test_ancestral_samples_of_a_gaussian_have_its_variance():
    schedule, s2 = Schedule.cosine(200), 0.25

    def score(x, t):
        a = schedule.alpha_bar(t, x)
        return -x / (a * s2 + 1 - a)

    g = torch.Generator().manual_seed(0)
    start = torch.randn(4000, 1, generator=g)
    for sample, options in ((sample_ddpm, {}), (sample_ddim, {"eta": 1.0}), (sample_ddim, {})):
        x = sample(score, schedule, start, steps=200, kind="score", generator=g, **options)
        assert abs(float(x.var()) - s2) < 0.03


def test_rows_may_be_at_different_times():
    schedule = Schedule.linear(10)
    x0, noise, _ = draw(3, shape=(3, 2, 2))
    t = torch.tensor([0, 4, 9])
    together = schedule.add_noise(x0, noise, t)
    for i in range(3):
        alone = schedule.add_noise(x0[i : i + 1], noise[i : i + 1], int(t[i]))
        torch.testing.assert_close(together[i : i + 1], alone)


def test_bad_input_is_refused():
    schedule = Schedule.linear(10)
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        Schedule.cosine(0)
    with pytest.raises(ValueError, match="betas must lie between 0 and 1"):
        Schedule.of(torch.tensor([0.1, 1.5]))
    with pytest.raises((TypeError, ValueError), match="betas"):
        Schedule.of(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="steps must be between 1 and 10, got 11"):
        schedule.times(11)
    with pytest.raises(ValueError, match="times must be between -1 and 9"):
        schedule.add_noise(x, x, 10)
    with pytest.raises((TypeError, ValueError), match="kind"):
        schedule.predict_x0(x, x, 3, kind="noise")
    with pytest.raises(ValueError, match=r"eta must be in \[0, 1\], got 2"):
        ddim_step(schedule, x, x, 3, eta=2.0)
    with pytest.raises(ValueError, match="noise must be given where eta is above 0"):
        ddim_step(schedule, x, x, 3, eta=0.5)
