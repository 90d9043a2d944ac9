"""The networks against torchvision's at random sizes, and what their classic mistakes break."""

import pytest
import torch
import torchvision
from enforce import plain
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from week10.evidence.lenet_alexnet_resnet import (
    copy_learned,
    parameters_of,
    randomize,
    torchvision_cifar_resnet,
)
from week10.lenet_alexnet_resnet import C3_SEES, AlexNet, LeNet5, PartialConv, multiply_adds
from week10.resnet import BasicBlock, Bottleneck, ResNet, Shrink, cifar_resnet, resnet18, resnet50


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@settings(max_examples=8)
@given(
    depth=st.sampled_from([8, 14]),
    width=st.integers(1, 5),
    shortcut=st.sampled_from("AB"),
    channels=st.integers(1, 3),
    size=st.integers(5, 12),
    training=st.booleans(),
    seed=st.integers(0, 99),
)
def test_small_resnet_equals_torchvision_blocks(
    depth, width, shortcut, channels, size, training, seed
):
    torch.manual_seed(seed)
    reference = torchvision_cifar_resnet(depth, width, shortcut, channels, 3).double()
    model = cifar_resnet(
        depth, width=width, shortcut=shortcut, channels=channels, n_classes=3
    ).double()
    copy_learned(model, randomize(reference, torch.Generator().manual_seed(seed)))
    x = normal(4, channels, size, size, seed=seed)
    outputs = [net.train(training)(x) for net in (model, reference)]
    torch.testing.assert_close(*outputs)
    gradients = [
        torch.autograd.grad(
            F.cross_entropy(out, torch.tensor([0, 1, 2, 1])),
            [p for p in net.parameters() if p.requires_grad],
        )
        for out, net in zip(outputs, (model, reference), strict=True)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(list(model.buffers()), list(reference.buffers()))


@settings(max_examples=6)
@given(
    bottleneck=st.booleans(),
    depths=st.tuples(*[st.integers(1, 2)] * 4),
    size=st.tuples(st.integers(32, 50), st.integers(32, 50)),
    n_classes=st.integers(1, 4),
)
def test_large_resnet_takes_torchvision_weights(bottleneck, depths, size, n_classes):
    theirs = torchvision.models.resnet
    pair = (Bottleneck, theirs.Bottleneck) if bottleneck else (BasicBlock, theirs.BasicBlock)
    reference = torchvision.models.ResNet(pair[1], list(depths), num_classes=n_classes).eval()
    with torch.device("meta"):
        model = ResNet(pair[0], depths, n_classes=n_classes).eval()
    randomize(reference, torch.Generator().manual_seed(0))
    model.load_state_dict(reference.state_dict(), assign=True)
    x = normal(2, 3, *size).float()
    torch.testing.assert_close(model(x), reference(x))


@pytest.mark.parametrize(
    ("ours", "theirs"), [(AlexNet, "alexnet"), (resnet18, "resnet18"), (resnet50, "resnet50")]
)
def test_names_and_shapes_are_torchvision_s(ours, theirs):
    with torch.device("meta"):
        models = ours(), getattr(torchvision.models, theirs)()
    shapes = [{name: tuple(v.shape) for name, v in m.state_dict().items()} for m in models]
    assert list(shapes[0].items()) == list(shapes[1].items())


def test_alexnet_equals_torchvision():
    with torch.device("meta"):
        models = AlexNet(7).eval(), torchvision.models.alexnet(num_classes=7).eval()
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.empty(v.shape).uniform_(-1, 1, generator=generator) * v[0].numel() ** -0.5
        for name, v in models[1].state_dict().items()
    }
    for model in models:
        model.load_state_dict(state, assign=True)
    x = normal(2, 3, 70, 99).float()
    torch.testing.assert_close(*(model(x) for model in models))


def test_parameter_counts():
    assert parameters_of(cifar_resnet(20)) == 269_722
    assert parameters_of(cifar_resnet(20, shortcut="B")) == 272_474
    assert parameters_of(cifar_resnet(20, shortcut="none")) == 269_722
    assert parameters_of(cifar_resnet(56)) == 853_018
    for depth in (20, 56):
        model = cifar_resnet(depth)
        layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert len(layers) == depth
        assert [model.layer1[0].conv1.out_channels, model.fc.in_features] == [16, 64]


def test_option_a_keeps_even_pixels_and_adds_zeros():
    x = normal(1, 2, 5, 5)
    out = Shrink(2, 2)(x)
    assert torch.equal(out[:, :2], x[:, :, ::2, ::2])
    assert (out[:, 2:] == 0).all()
    assert out.shape == (1, 4, 3, 3)


def test_batch_norm_normalizes_by_n_and_remembers_by_n_minus_1():
    block = BasicBlock(1, 1)
    norm = block.bn1
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1, 1, 1)
    out = norm.train()(x)
    assert out.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert norm.running_var.item() == pytest.approx(0.9 + 0.1 * 5 / 3)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm(x[:1])


def test_a_block_whose_branch_is_zero_is_the_identity():
    block = BasicBlock(3, 3).eval()
    nn.init.zeros_(block.bn2.weight)
    x = normal(2, 3, 4, 4).float().abs()  # what a rectifier leaves as it is
    assert torch.equal(block(x), x)
    plain = BasicBlock(3, 3, shortcut="none").eval()
    nn.init.zeros_(plain.bn2.weight)
    assert (plain(x) == 0).all()


def test_lenet_connects_as_in_table_1():
    assert [len(sees) for sees in C3_SEES] == [3] * 6 + [4] * 9 + [6]
    assert {frozenset(sees) for sees in C3_SEES[6:12]} == {
        frozenset({i % 6, (i + 1) % 6, (i + 2) % 6, (i + 3) % 6}) for i in range(6)
    }
    seen_by = [sum(i in sees for sees in C3_SEES) for i in range(6)]
    assert seen_by == [10] * 6
    layer = PartialConv(C3_SEES, 6, 5)
    x = torch.randn(2, 6, 14, 14)
    for out, sees in enumerate(C3_SEES):
        hidden = x.clone()
        hidden[:, [i for i in range(6) if i not in sees]] = torch.nan
        inside = layer.weight[out : out + 1, list(sees)]
        expected = F.conv2d(hidden[:, list(sees)], inside, layer.bias[out : out + 1])
        torch.testing.assert_close(layer(x)[:, out : out + 1], expected)
    layer(x).sum().backward()
    assert layer.kernels.grad.abs().min() > 0


def test_lenet_counts_and_range():
    model = LeNet5(channels=3)
    assert parameters_of(model) - parameters_of(model.output) == 60_000 + 2 * 6 * 25
    out = model(torch.full((1, 3, 32, 32), 1e4))
    most = 1.7159 * model.output.weight.abs().sum(1) + model.output.bias.abs()
    assert (out.abs() <= most).all()  # what a squashed layer can give


def test_multiply_adds_leaves_the_model_alone():
    model = cifar_resnet(8).train()
    before = {name: v.clone() for name, v in model.state_dict().items()}
    conv = nn.Conv2d(4, 6, 3, stride=2, groups=2)
    assert multiply_adds(conv, (4, 9, 9)) == 4 * 4 * 6 * 2 * 9
    multiply_adds(model, (3, 32, 32))
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())
    torch.testing.assert_close(model.state_dict(), before)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: LeNet5()(torch.ones(1, 1, 28, 28)), r"32 × 32 .*, got \(1, 1, 28, 28\)"),
        (lambda: AlexNet(2)(torch.ones(1, 1, 70, 70)), r"color pictures .*, got \(1, 1, 70, 70\)"),
        (lambda: cifar_resnet(18), r"depth must be 6n \+ 2 .*, got 18"),
        (lambda: cifar_resnet(2), "depth must be 6n"),
    ],
)
def test_wrong_input(call, match):
    with torch.device("meta"), pytest.raises(ValueError, match=match):
        call()


def test_unknown_names_of_options():
    make = plain("10", "resnet").cifar_resnet
    with pytest.raises(ValueError, match="shortcut must be A, B or none, got C"):
        make(8, shortcut="C")
    with pytest.raises(ValueError, match="stem must be imagenet or cifar, got large"):
        make(8, stem="large")
