r"""A character-level recurrent network in NumPy: backpropagation through time, by hand.

The network reads one character per step and keeps what it needs in its state $h$:

$$ h_t = \tanh(W_{x_t} + U h_{t-1} + b), \qquad
   p(x_{t+1}) = \mathrm{softmax}(V h_t + c) . $$

Unrolled, it is a deep network whose layers share their weights, so their gradients add up. With
$\bar h_t$ the gradient at $h_t$ and $\delta_t = \bar h_t \odot (1 - h_t^2)$ inside the tanh,

$$ \bar h_t = V^\top (p_t - y_t) + U^\top \delta_{t+1}, \qquad
   \bar U = \sum_t \delta_t h_{t-1}^\top . $$

*Truncation*: a long text is read in chunks; the state goes on into the next, the gradient does not.

>>> network = CharRNN(vocab_size=3, hidden_size=4, rng=np.random.default_rng(0))
>>> tokens = np.array([[0, 1, 2, 0, 1]])  # one text; each token is followed by the next
>>> loss, gradients, state = network.loss_and_gradients(tokens[:, :-1], tokens[:, 1:])
>>> bool(abs(loss - np.log(3)) < 0.1), gradients["U"].shape, state.shape  # untrained, it guesses
(True, (4, 4), (1, 4))

    uv run weeks/11/char_rnn.py
    uv run weeks/11/char_rnn.py --dataset tinyshakespeare

Elman (1990); Werbos, "Backpropagation through time" (1990); as a writer of text: Sutskever, Martens
& Hinton (2011).
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from shared.arguments import checked
from shared.require import require

State = Float[np.ndarray, "batch hidden"]
Tokens = Int[np.ndarray, "batch time"]


class CharRNN:
    """An Elman network over tokens 0 … vocab_size - 1.

    Attributes
    ----------
    parameters
        W (vocab, hidden), one row per input token; U (hidden, hidden); b (hidden,); V (vocab,
        hidden); c (vocab,). torch's weight_ih is W transposed, its weight_hh is U.
    """

    def __init__(self, vocab_size: int, hidden_size: int, *, rng: np.random.Generator):
        require(vocab_size >= 1, "vocab_size must be at least 1", vocab_size)
        require(hidden_size >= 1, "hidden_size must be at least 1", hidden_size)
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        q, r = np.linalg.qr(rng.normal(size=(hidden_size, hidden_size)))
        self.parameters = {
            "W": rng.normal(scale=0.1, size=(vocab_size, hidden_size)),
            "U": q * np.sign(np.diag(r)),  # orthogonal: a state neither dies nor explodes at first
            "b": np.zeros(hidden_size),
            "V": rng.normal(scale=0.1 * hidden_size**-0.5, size=(vocab_size, hidden_size)),
            "c": np.zeros(vocab_size),
        }

    def start(self, batch: int) -> State:
        """The state before any character."""
        return np.zeros((batch, self.hidden_size))

    def step(self, tokens: Int[np.ndarray, " batch"], h: State) -> State:
        """The state after one more character."""
        p = self.parameters
        return np.tanh(p["W"][tokens] + h @ p["U"].T + p["b"])

    def log_probs(self, h: Float[np.ndarray, "*steps hidden"]) -> Float[np.ndarray, "*steps vocab"]:
        """Log-probabilities (nats) of the next character."""
        logits = h @ self.parameters["V"].T + self.parameters["c"]
        logits = logits - logits.max(axis=-1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))

    @checked
    def loss_and_gradients(
        self, inputs: Tokens, targets: Tokens, h: State | None = None
    ) -> tuple[float, dict[str, np.ndarray], State]:
        """Mean loss (nats per character), its gradients, and the state after the last input.

        Parameters
        ----------
        h
            The state to start from; no gradient goes into it.

        Raises
        ------
        ValueError
            A token is not in the vocabulary, or shapes do not fit.
        """
        for name, tokens in (("inputs", inputs), ("targets", targets)):
            require(tokens.size, f"{name} must hold at least one token", tokens.shape)
            low, high, top = tokens.min(), tokens.max(), self.vocab_size - 1
            require(low >= 0 and high <= top, f"{name} must lie in 0..{top}", f"{low}..{high}")
        p, (batch, time) = self.parameters, inputs.shape
        states = [self.start(batch) if h is None else h]
        for t in range(time):
            states.append(self.step(inputs[:, t], states[-1]))
        before, after = np.stack(states[:-1]), np.stack(states[1:])  # (time, batch, hidden)
        log_p, y = self.log_probs(after), targets.T
        loss = -np.take_along_axis(log_p, y[..., None], axis=-1).mean()

        error = np.exp(log_p)
        error[np.arange(time)[:, None], np.arange(batch), y] -= 1.0
        error /= y.size
        delta = error @ p["V"]  # what each step's own prediction asks of its state
        for t in reversed(range(time)):
            if t < time - 1:
                delta[t] += delta[t + 1] @ p["U"]  # and what later ones do
            delta[t] *= 1.0 - after[t] ** 2
        W = np.zeros_like(p["W"])
        np.add.at(W, inputs.T, delta)
        gradients = {
            "W": W,
            "U": np.einsum("tbi,tbj->ij", delta, before),
            "b": delta.sum(axis=(0, 1)),
            "V": np.einsum("tbv,tbh->vh", error, after),
            "c": error.sum(axis=(0, 1)),
        }
        return float(loss), gradients, states[-1]

    def write(
        self, prompt: Int[np.ndarray, " time"], length: int, rng: np.random.Generator
    ) -> Int[np.ndarray, " length"]:
        """Read the prompt, then draw `length` characters, each from what the last one leads to."""
        require(len(prompt) >= 1, "prompt must hold at least one token", "none")
        require(length >= 0, "length must be at least 0", length)
        h, written = self.start(1), []
        for token in prompt:
            h = self.step(np.array([token]), h)
        for _ in range(length):
            written.append(rng.choice(self.vocab_size, p=np.exp(self.log_probs(h)[0])))
            h = self.step(np.array(written[-1:]), h)
        return np.array(written, dtype=np.int64)


class AdaGrad:
    """Steps that shrink where gradients were large: g / √(sum of g²) (Duchi et al., 2011)."""

    def __init__(self, parameters: dict[str, np.ndarray], lr: float, clip: float = np.inf):
        require(lr > 0, "lr must be positive", lr)
        self.parameters, self.lr, self.clip = parameters, lr, clip
        self.sums = {name: np.zeros_like(value) for name, value in parameters.items()}

    def step(self, gradients: dict[str, np.ndarray]) -> None:
        """Move the parameters in place; gradients of a norm above `clip` are scaled to it."""
        norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
        scale = min(1.0, self.clip / norm) if norm > 0 else 1.0
        for name, g in gradients.items():
            g = scale * g
            self.sums[name] += g**2
            self.parameters[name] -= self.lr * g / (np.sqrt(self.sums[name]) + 1e-10)


def chunks(
    tokens: Int[np.ndarray, " n"], batch_size: int, length: int
) -> Iterator[tuple[Tokens, Tokens]]:
    """Inputs and targets of `batch_size` places of a text, read side by side, in order.

    Row i of each chunk goes on where row i of the last one ended, so states can be carried over.
    """
    rows = (len(tokens) - 1) // batch_size
    must = f"tokens must hold batch_size x length + 1 = {batch_size * length + 1}"
    require(rows >= length, must, len(tokens))
    inputs = tokens[: rows * batch_size].reshape(batch_size, rows)
    targets = tokens[1 : rows * batch_size + 1].reshape(batch_size, rows)
    for start in range(0, rows - length + 1, length):
        yield inputs[:, start : start + length], targets[:, start : start + length]


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
