"""The three networks against torchvision's, what LeNet-5 assumes, and what a shortcut keeps."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week10.lenet_alexnet_resnet import AlexNet, LeNet5, multiply_adds
from week10.resnet import BasicBlock, ResNet, cifar_resnet, resnet18, resnet50

LR, BATCH = 0.1, 64  # the better of three rates for both networks, on seeds 100 and 101
PUBLISHED = {
    "LeNet-5": 60_000,
    "AlexNet": 61.1e6,
    "ResNet-20": 0.27e6,
    "ResNet-56": 0.85e6,
    "ResNet-18": 11.69e6,
    "ResNet-50": 25.56e6,
}


def main(run: Run, *, seeds: PositiveInt = 3, draws: PositiveInt = 5) -> None:
    """Check three architectures; scramble pixels; remove shortcuts.

    Parameters
    ----------
    seeds
        Trainings of LeNet-5 in each setting.
    draws
        Untrained networks per depth and kind of shortcut.
    """
    run.rounding(5e-3, "float32 convolutions, summed in another order")
    check_against_torchvision(run)
    check_small_resnet(run)
    check_costs(run)
    scrambled_pixels(run, run.budget(quick=1, default=seeds))
    shattered_gradients(run, run.budget(quick=2, default=draws))


# ---- checks


def randomize(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Give every batch normalization gains, biases and statistics of its own; return the model."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                tensor.data.uniform_(0.5, 1.5, generator=generator)
            for tensor in (module.bias, module.running_mean):
                tensor.data.normal_(0, 0.3, generator=generator)
    return model


def check_against_torchvision(run: Run) -> None:
    """Logits with torchvision's weights; three steps of SGD in training mode."""
    from torchvision import models

    g, size = run.generator(), run.budget(quick=64, default=224)
    equal = run.against("torchvision", atol=1e-5, rtol=1e-4, why="float32 rounding")
    smallest = (resnet18, models.resnet18)
    all_three = (smallest, (AlexNet, models.alexnet), (resnet50, models.resnet50))
    for ours, theirs in run.budget(quick=(smallest,), default=all_three):
        reference = randomize(theirs(), g).eval()
        with torch.device("meta"):
            model = ours().eval()
        model.load_state_dict(reference.state_dict(), assign=True)
        x = torch.randn(2, 3, size, size, generator=g)
        with torch.no_grad():
            equal(f"logits, {theirs.__name__}", model(x), reference(x))

    x = torch.randn(3, 4, 3, 33, 33, generator=g, dtype=torch.float64)
    y = torch.randint(10, (3, 4), generator=g)
    shape = (1, 1, 1, 1)
    reference = models.ResNet(models.resnet.BasicBlock, shape, num_classes=10).double()
    model = ResNet(BasicBlock, shape, n_classes=10).double()
    model.load_state_dict(randomize(reference, g).state_dict())
    losses = [sgd_steps(net, x, y) for net in (model, reference)]
    tight = run.against("torchvision", atol=1e-9, why="float64 rounding")
    tight("losses of three steps, a ResNet-10", *losses)
    states = [
        torch.cat([v.double().flatten() for v in net.state_dict().values()])
        for net in (model, reference)
    ]
    tight("weights and running statistics after them", *states)


def sgd_steps(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Losses of one step of SGD with momentum per batch."""
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), []
    for images, labels in zip(x, y, strict=True):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def torchvision_cifar_resnet(
    depth: int, width: int, shortcut: str, channels: int, n_classes: int
) -> nn.Sequential:
    """The network of section 4.2 put together from torchvision's blocks; option A by a matrix."""
    from torchvision.models.resnet import BasicBlock as TheirBlock

    stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    layers, maps = [stem, nn.BatchNorm2d(width), nn.ReLU()], width
    for stage in range(3):
        for i in range((depth - 2) // 6):
            stride, out, change = (2 if stage and not i else 1), width * 2**stage, None
            if maps != out and shortcut == "A":
                change = nn.Conv2d(maps, out, 1, stride, bias=False).requires_grad_(False)
                nn.init.dirac_(change.weight)
            elif maps != out:
                change = nn.Sequential(
                    nn.Conv2d(maps, out, 1, stride, bias=False), nn.BatchNorm2d(out)
                )
            layers.append(TheirBlock(maps, out, stride, change))
            maps = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(maps, n_classes))


def copy_learned(model: nn.Module, reference: nn.Module) -> nn.Module:
    """Copy the reference's learned weights and its statistics, in order; return the model."""
    for kind in ("parameters", "buffers"):
        theirs = [t for t in getattr(reference, kind)() if kind == "buffers" or t.requires_grad]
        for ours, tensor in zip(getattr(model, kind)(), theirs, strict=True):
            ours.data.copy_(tensor)
    return model


def check_small_resnet(run: Run) -> None:
    """ResNet-20 with both kinds of shortcut: logits and gradients."""
    g = run.generator(1)
    equal = run.against("torchvision's blocks", atol=1e-9, why="float64 rounding")
    for shortcut in ("A", "B"):
        reference = torchvision_cifar_resnet(20, 16, shortcut, 3, 10).double()
        model = cifar_resnet(20, shortcut=shortcut).double()
        copy_learned(model, randomize(reference, g))
        x = torch.randn(4, 3, 32, 32, generator=g, dtype=torch.float64)
        outputs = [net(x) for net in (model, reference)]
        equal(f"logits, ResNet-20 {shortcut}", *outputs)
        gradients = [
            torch.cat([t.flatten() for t in torch.autograd.grad(out.square().sum(), weights)])
            for out, net in zip(outputs, (model, reference), strict=True)
            for weights in [[p for p in net.parameters() if p.requires_grad]]
        ]
        equal(f"gradients, ResNet-20 {shortcut}", *gradients, rtol=1e-9)


def parameters_of(model: nn.Module) -> int:
    """How many numbers are learned."""
    return sum(p.numel() for p in model.parameters())


def check_costs(run: Run) -> None:
    """Parameters by closed forms and as published; multiply-adds as torch counts them."""
    with torch.device("meta"):
        networks = {
            "AlexNet": (AlexNet(), 224),
            "ResNet-20": (cifar_resnet(20), 32),
            "ResNet-56": (cifar_resnet(56), 32),
            "ResNet-18": (resnet18(), 224),
            "ResNet-50": (resnet50(), 224),
        }
    lenet = LeNet5()
    counts = {"LeNet-5": parameters_of(lenet) - parameters_of(lenet.output)}
    counts |= {name: parameters_of(model) for name, (model, _) in networks.items()}
    closed = run.against("closed form", kind="theorem", why="whole numbers")
    by_layer = 6 * 26 + 12 + (60 * 25 + 16) + 32 + 120 * 401 + 84 * 121
    closed("parameters of LeNet-5 up to F6", counts["LeNet-5"], by_layer)
    found = [parameters_of(cifar_resnet(6 * n + 2)) for n in (1, 3, 9, 18)]
    closed("97,216 n - 21,926 parameters", found, [97_216 * n - 21_926 for n in (1, 3, 9, 18)])
    flops = run.against("torch's FlopCounterMode, halved", why="whole numbers")
    for name, (model, size) in networks.items():
        with FlopCounterMode(display=False) as counter:
            model.eval()(torch.empty(1, 3, size, size, device="meta"))
        work = multiply_adds(model, (3, size, size))
        flops(f"multiply-adds, {name}", work, counter.get_total_flops() // 2)
        run.metric(f"{name}: multiply-adds", work / 1e6, "million")
    for name, count in counts.items():
        run.metric(f"{name}: parameters", count, rtol=0)
    off = max(abs(counts[name] / known - 1) for name, known in PUBLISHED.items())
    rule = "parameters are as published"
    run.claim(rule, 100 * off, at_most=0.5, unit="% at most", deterministic=True)
    full = counts["LeNet-5"] - parameters_of(lenet.c3) + parameters_of(nn.Conv2d(6, 16, 5))
    run.falsifier("LeNet-5 with a full third layer", 100 * (full / 60_000 - 1), breaks=rule)


# ---- what LeNet-5 assumes


def dense(n_hidden: int = 57) -> nn.Sequential:
    """A perceptron with about as many parameters as LeNet-5."""
    return nn.Sequential(nn.Flatten(), nn.Linear(1024, n_hidden), nn.Tanh(), nn.Linear(57, 10))


def train(
    make: Callable[[], nn.Module],
    x: Float[Tensor, "n 1 32 32"],
    y: Int[Tensor, " n"],
    *,
    steps: int,
    seed: int,
) -> nn.Module:
    """SGD with momentum and a one-cycle schedule."""
    torch.manual_seed(seed)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=max(steps, 2))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(x), (BATCH,), generator=generator)
        loss = F.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model


def scrambled_pixels(run: Run, seeds: int) -> None:
    """Train on pictures and on the same pictures with their pixels in another, fixed order."""
    data, steps = datasets.mnist(), run.budget(quick=4, default=200)
    n_train, n_test = run.budget(quick=(300, 200), default=(4000, 2000))

    def prepare(images, order: Tensor) -> Tensor:
        x = F.pad(torch.tensor(images)[:, None] / 255, [2] * 4) * 1.275 - 0.1  # the paper's range
        return x.flatten(1)[:, order].view_as(x)

    orders = {"as they are": torch.arange(1024), "scrambled": None}
    accuracy = {f"{net}, {order}": [] for net in ("LeNet-5", "dense") for order in orders}
    accuracy["LeNet-5, shuffled labels"] = []
    labels = torch.tensor(data.train_labels[:n_train]).long()
    answers = torch.tensor(data.test_labels[:n_test]).long()
    for seed in run.progress(range(run.seed, run.seed + seeds), "training LeNet-5"):
        g = torch.Generator().manual_seed(seed)
        orders["scrambled"] = torch.randperm(1024, generator=g)
        mixed = labels[torch.randperm(n_train, generator=g)]
        for name, runs in accuracy.items():
            order = orders["scrambled" if "scrambled" in name else "as they are"]
            x, test = (prepare(a, order) for a in (data.train_images[:n_train], data.test_images))
            y = mixed if "shuffled" in name else labels
            net = train(dense if "dense" in name else LeNet5, x, y, steps=steps, seed=seed)
            with torch.no_grad():
                runs.append(100 * (net(test[:n_test]).argmax(1) == answers).double().mean().item())
    lost = {
        net: [
            a - b for a, b in zip(*(accuracy[f"{net}, {order}"] for order in orders), strict=True)
        ]
        for net in ("LeNet-5", "dense")
    }
    for name, runs in accuracy.items():
        run.metric(f"accuracy, {name}", sum(runs) / len(runs), "%", rtol=0.1)
    seen = "on seeds 100 and 101, with 300 steps: 9 points lost, and none by the dense network"
    common = {"unit": "points of accuracy", "quick": False, "rtol": None}
    rule = "LeNet-5 needs its pixels in order"
    run.claim(rule, lost["LeNet-5"], at_least=4, seen_before=seen, **common)
    run.falsifier("dense network of as many parameters", lost["dense"], breaks=rule)
    common["unit"] = "% right"
    shuffled = accuracy["LeNet-5, shuffled labels"]
    run.claim("shuffled labels teach nothing", shuffled, at_most=20, **common)
    with run.figure("pixels", "What does LeNet-5 lose when pixels change places?") as ax:
        colors = (plots.BLUE, plots.SKY, plots.GRAY, plots.GRAY, plots.ORANGE)
        guess = {"guessing": 10.0}
        plots.bars(ax, accuracy, colors=colors, reference=guess, xlabel="test accuracy (%)")


# ---- what a shortcut keeps


def neighbors_agree(
    depth: int, shortcut: str, x: Float[Tensor, "n 3 32 32"], *, seed: int
) -> tuple[float, float]:
    """Cosine of the input gradients at pictures and near them, and the gradients' mean length."""
    torch.manual_seed(seed)
    model = cifar_resnet(depth, shortcut=shortcut)
    both = torch.cat([x, x + 0.03 * torch.randn_like(x)]).requires_grad_()
    (gradient,) = torch.autograd.grad((model(both) @ torch.randn(10)).sum(), both)
    here, there = gradient.flatten(1).chunk(2)
    cosine = torch.cosine_similarity(here, there).mean()
    return cosine.item(), here.norm(dim=1).mean().item()


def shattered_gradients(run: Run, draws: int) -> None:
    """How much a gradient says about its neighborhood, in untrained networks of growing depth."""
    x = torch.tensor(datasets.cifar10(1).train_images[: run.budget(quick=4, default=16)])
    x = x.permute(0, 3, 1, 2).float()
    x = (x - x.mean(dim=(0, 2, 3), keepdim=True)) / x.std(dim=(0, 2, 3), keepdim=True)
    depths = run.budget(quick=(8, 20), default=(8, 20, 32, 44, 56))
    kinds = {"shortcut A, identity": "A", "shortcut B, projection": "B", "plain": "none"}
    cosines, lengths = {}, {}
    for name, kind in run.progress(kinds.items(), "gradients"):
        seeds = range(run.seed + 10, run.seed + 10 + draws)
        table = torch.tensor([[neighbors_agree(d, kind, x, seed=s) for d in depths] for s in seeds])
        cosines[name], lengths[name] = table.unbind(dim=2)
    seen = "on seeds 0 to 2, with 32 pictures: 0.29 to 0.37, plain networks below 0.03"
    rule, identity = f"at depth {depths[-1]} shortcuts keep the gradient's direction", "A, identity"
    values = cosines[f"shortcut {identity}"][:, -1]
    common = {"quick": False, "rtol": None}
    run.claim(rule, values, at_least=0.15, unit="cosine", seen_before=seen, **common)
    run.falsifier("plain network", cosines["plain"][:, -1], breaks=rule)
    growth = {name: table[:, -1] / table[:, 0] for name, table in lengths.items()}
    seen = "on seed 0: 2600 times, with shortcuts 9 times"
    rule = f"batch norm does not keep the length, depth {depths[0]} to {depths[-1]}"
    run.claim(rule, growth["plain"], at_least=100, unit="times", seen_before=seen, **common)
    run.falsifier("with shortcuts", growth[f"shortcut {identity}"], breaks=rule)
    for name, table in cosines.items():
        run.metric(f"cosine at depth 20, {name}", table[:, 1].mean(), rtol=0.1)
    with run.figure("gradients", "How far does a gradient look, with shortcuts and without?") as ax:
        labels = {"xlabel": "depth (layers)", "xticks": depths, "ylim": (-0.05, 1.0)}
        ylabel = "cosine of gradients at a picture\nand 3 % away from it"
        plots.curves(ax, depths, cosines, marker="o", ylabel=ylabel, **labels)
