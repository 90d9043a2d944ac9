"""MNIST by the U-Net: the long setting of `uv run weeks/23/ddpm.py --full`."""

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.datasets import mnist
from shared.study import Run
from week23.ddpm import simple_loss, train
from week23.schedules import Schedule, sample_ddim
from week23.unet import UNet, UNetConfig


def judge_mnist(run: Run, *, steps: int = 3000, n: int = 16) -> None:
    """Train on 28×28 digits in a frame of 32×32; loss on held-out rows, and samples."""
    schedule, g = Schedule.linear(1000), run.generator(11)
    data = mnist()
    x, held_out = (_framed(part) for part in (data.train_images, data.test_images[:500]))
    config = UNetConfig(
        1,
        widths=(32, 64, 64),
        attention=(False, False, True),
        n_heads=4,
        memory_dim=None,
        n_groups=8,
    )
    net = UNet(config, g).to(run.device)

    def loss(rows: Tensor) -> Tensor:
        t = torch.randint(len(schedule), (len(rows),), generator=g)
        noise = torch.randn(len(rows), 1, 32, 32, generator=g)
        x0, t, noise = (part.to(run.device) for part in (x[rows], t, noise))
        return simple_loss(schedule, net, x0, t, noise)

    train(net, loss, len(x), steps=steps, generator=g, lr=5e-4, decay=0.999, batch_size=64)
    t = torch.arange(len(held_out)) * 2
    noise = torch.randn(held_out.shape, generator=g)
    held_out, t, noise = (part.to(run.device) for part in (held_out, t, noise))
    with torch.no_grad():
        left = simple_loss(schedule, net, held_out, t, noise).mean()
    run.metric("MNIST, share of held-out noise that is named", 1 - float(left), rtol=None)
    start = torch.randn(n, 1, 32, 32, generator=g).to(run.device)
    found = sample_ddim(net, schedule, start, steps=50, clip=1.0).cpu()
    with run.figure("mnist", "What does the U-Net draw?", size=(8, 2)) as axes:
        axes.imshow(found.permute(1, 2, 0, 3).reshape(32, -1), cmap="gray_r", vmin=-1, vmax=1)
        axes.set_axis_off()


def _framed(images) -> Tensor:
    x = torch.from_numpy(images).float().unsqueeze(1) / 127.5 - 1
    return F.pad(x, (2, 2, 2, 2), value=-1)
