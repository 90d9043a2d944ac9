r"""LSTM and GRU: recurrent cells that add to their memory instead of rewriting it.

With $\sigma$ the logistic function, $\odot$ the elementwise product and one linear map of the input
$x$ and the last output $h$ per gate, the LSTM keeps a cell $c$ beside its output:

$$ c \leftarrow f \odot c + i \odot \tanh(g), \qquad h \leftarrow o \odot \tanh(c),
   \qquad i, f, o = \sigma(\ldots). $$

The GRU has no cell; it blends its output with a candidate, and resets what the candidate sees
*after* the recurrent product, so the candidate's two biases are two:

$$ h \leftarrow (1 - z) \odot n + z \odot h, \qquad
   n = \tanh(W_n x + b_n + r \odot (U_n h + b'_n)). $$

>>> lstm = LSTM(input_size=3, hidden_size=5, bidirectional=True)
>>> y, (h, c) = lstm(torch.zeros(2, 4, 3), lengths=torch.tensor([4, 2]))
>>> y.shape, h.shape
(torch.Size([2, 4, 10]), torch.Size([2, 2, 5]))
>>> y[1, 2:].abs().sum().item()  # nothing comes out after the end of a sequence
0.0

    uv run weeks/11/lstm_gru.py

Hochreiter & Schmidhuber (1997); forget gate: Gers, Schmidhuber & Cummins (2000); Cho et al. (2014).
Names, layouts and the place of the reset gate are torch's, so state dicts fit both ways.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from shared.arguments import checked
from shared.require import require

# ---- one step of a cell: `x` holds W x + b of every gate, `u` gives U h + b'


def lstm_step(
    x: Float[Tensor, "batch gates"],
    h: Float[Tensor, "batch hidden"],
    c: Float[Tensor, "batch hidden"],
    weight_hh: Float[Tensor, "gates hidden"],
    bias_hh: Float[Tensor, "gates"],
) -> tuple[Float[Tensor, "batch hidden"], Float[Tensor, "batch hidden"]]:
    """Output and cell after one input; gates in the order i, f, g, o."""
    i, f, g, o = (x + F.linear(h, weight_hh, bias_hh)).chunk(4, dim=-1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def gru_step(
    x: Float[Tensor, "batch gates"],
    h: Float[Tensor, "batch hidden"],
    weight_hh: Float[Tensor, "gates hidden"],
    bias_hh: Float[Tensor, "gates"],
) -> tuple[Float[Tensor, "batch hidden"]]:
    """Output after one input; gates in the order r, z, n."""
    (xr, xz, xn), (ur, uz, un) = x.chunk(3, -1), F.linear(h, weight_hh, bias_hh).chunk(3, -1)
    r, z = (xr + ur).sigmoid(), (xz + uz).sigmoid()
    n = (xn + r * un).tanh()
    return (torch.lerp(n, h, z),)


def rnn_step(
    x: Float[Tensor, "batch hidden"],
    h: Float[Tensor, "batch hidden"],
    weight_hh: Float[Tensor, "hidden hidden"],
    bias_hh: Float[Tensor, "hidden"],
) -> tuple[Float[Tensor, "batch hidden"]]:
    """Elman's network: everything is rewritten at every step."""
    return ((x + F.linear(h, weight_hh, bias_hh)).tanh(),)


# ---- layers, directions, lengths


class Recurrent(nn.Module):
    """What the three networks share: layers, two directions, sequences of different lengths.

    Parameters
    ----------
    input_size, hidden_size
        Features of an input and of an output.
    n_layers
        Each layer reads the outputs of the one below.
    bidirectional
        A second set of weights reads from the end; its outputs stand behind the first's.
    dropout
        Of the outputs of each layer but the last, while training.
    """

    n_gates: int
    n_states: int

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        n_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        for name, size in (
            ("input_size", input_size),
            ("hidden_size", hidden_size),
            ("n_layers", n_layers),
        ):
            require(size >= 1, f"{name} must be at least 1", size)
        require(0.0 <= dropout < 1.0, "dropout must be in [0, 1)", dropout)
        self.input_size, self.hidden_size, self.n_layers = input_size, hidden_size, n_layers
        self.directions = ("", "_reverse") if bidirectional else ("",)
        self.dropout = dropout
        for layer in range(n_layers):
            width = input_size if layer == 0 else hidden_size * len(self.directions)
            for name in self.directions:
                rows = self.n_gates * hidden_size
                for kind, shape in (
                    ("weight_ih", (rows, width)),
                    ("weight_hh", (rows, hidden_size)),
                    ("bias_ih", (rows,)),
                    ("bias_hh", (rows,)),
                ):
                    empty = nn.Parameter(torch.empty(shape))
                    self.register_parameter(f"{kind}_l{layer}{name}", empty)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(hidden_size**-0.5), hidden_size**-0.5)

    def step(
        self, x: Float[Tensor, "batch gates"], *state_and_weights: Float[Tensor, "..."]
    ) -> tuple[Float[Tensor, "batch hidden"], ...]:
        """The next state, the output first."""
        raise NotImplementedError

    @checked
    def run(
        self,
        x: Float[Tensor, "batch time features"],
        state: tuple[Tensor, ...] | None,
        lengths: Int[Tensor, " batch"] | None,
    ) -> tuple[Float[Tensor, "batch time out"], tuple[Tensor, ...]]:
        """All outputs, and each part of the state after the last input of each sequence."""
        batch, time, features = x.shape
        require(features == self.input_size, f"x must have {self.input_size} features", features)
        require(time >= 1, "x must hold at least one step", time)
        if lengths is not None:
            inside = bool(((lengths >= 1) & (lengths <= time)).all())
            require(inside, f"lengths must lie between 1 and {time}", lengths.tolist())
            lengths = lengths.to(x.device)
            padding = torch.arange(time, device=x.device) >= lengths[:, None]
            x = x.masked_fill(padding[..., None], 0.0)  # or what is not finite there spoils sums
        shape = (self.n_layers * len(self.directions), batch, self.hidden_size)
        if state is None:
            state = (x.new_zeros(shape),) * self.n_states
        for part in state:
            require(part.shape == shape, f"state must have shape {shape}", tuple(part.shape))
        last = []
        for layer in range(self.n_layers):
            outputs = []
            for name in self.directions:
                start = tuple(part[len(last)] for part in state)
                output, end = self._one_direction(x, start, lengths, f"_l{layer}{name}")
                outputs.append(output)
                last.append(end)
            x = torch.cat(outputs, dim=-1)
            if layer < self.n_layers - 1:
                x = F.dropout(x, self.dropout, self.training)
        return x, tuple(map(torch.stack, zip(*last, strict=True)))

    def _one_direction(self, x, state, lengths, name: str):
        weight_hh, bias_hh = getattr(self, "weight_hh" + name), getattr(self, "bias_hh" + name)
        # The inputs' share of every step is one product.
        x = F.linear(x, getattr(self, "weight_ih" + name), getattr(self, "bias_ih" + name))
        order = range(x.shape[1])
        outputs = [x] * len(order)
        for t in reversed(order) if name.endswith("_reverse") else order:
            new = self.step(x[:, t], *state, weight_hh, bias_hh)
            if lengths is None:
                state, outputs[t] = new, new[0]
            else:  # beyond its end a sequence keeps its state, so backward it starts at its end
                inside = (t < lengths)[:, None]
                state = tuple(a.where(inside, b) for a, b in zip(new, state, strict=True))
                outputs[t] = state[0].where(inside, 0.0)
        return torch.stack(outputs, dim=1), state


class LSTM(Recurrent):
    """Long short-term memory; `Recurrent` has the parameters, state dicts are `torch.nn.LSTM`'s."""

    n_gates, n_states = 4, 2

    def step(
        self, x: Float[Tensor, "batch gates"], *state_and_weights: Float[Tensor, "..."]
    ) -> tuple[Float[Tensor, "batch hidden"], ...]:
        """`lstm_step`."""
        return lstm_step(x, *state_and_weights)

    def forward(
        self,
        x: Float[Tensor, "batch time features"],
        state: tuple[Tensor, Tensor] | None = None,
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> tuple[Float[Tensor, "batch time out"], tuple[Tensor, Tensor]]:
        """Outputs, and (h, c) after the end, each (layers · directions, batch, hidden).

        `lengths` tells where each sequence ends: outputs beyond are 0, and what stands there in x
        has no influence. `torch.nn.utils.rnn.pack_padded_sequence` is the library's way.
        """
        return self.run(x, state, lengths)


class GRU(Recurrent):
    """Gated recurrent unit; `Recurrent` has the parameters, state dicts are `torch.nn.GRU`'s."""

    n_gates, n_states = 3, 1

    def step(
        self, x: Float[Tensor, "batch gates"], *state_and_weights: Float[Tensor, "..."]
    ) -> tuple[Float[Tensor, "batch hidden"], ...]:
        """`gru_step`."""
        return gru_step(x, *state_and_weights)

    def forward(
        self,
        x: Float[Tensor, "batch time features"],
        state: Float[Tensor, "layers batch hidden"] | None = None,
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> tuple[Float[Tensor, "batch time out"], Float[Tensor, "layers batch hidden"]]:
        """Outputs, and h after the end; `lengths` as in `LSTM`."""
        outputs, (h,) = self.run(x, None if state is None else (state,), lengths)
        return outputs, h


class RNN(GRU):
    """The plain tanh network, for comparison; state dicts are `torch.nn.RNN`'s."""

    n_gates = 1

    def step(
        self, x: Float[Tensor, "batch gates"], *state_and_weights: Float[Tensor, "..."]
    ) -> tuple[Float[Tensor, "batch hidden"], ...]:
        """`rnn_step`."""
        return rnn_step(x, *state_and_weights)


@torch.no_grad()
def set_forget_bias(lstm: nn.Module, value: float) -> None:
    """Give all forget gates of an LSTM, ours or torch's, the bias `value` (Gers et al.: positive).

    It stands in bias_ih; bias_hh's share becomes 0, since the two are only ever added.
    """
    for name, parameter in lstm.named_parameters():
        if name.startswith("bias"):
            quarter = len(parameter) // 4
            parameter[quarter : 2 * quarter] = value if name.startswith("bias_ih") else 0.0


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
