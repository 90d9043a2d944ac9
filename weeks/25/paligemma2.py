r"""A small PaliGemma 2: a picture is a prefix that a language model reads before it answers.

SigLIP gives a token per patch, one linear map takes them to the width of Gemma 2, and there they
stand before the words of the question. With a prefix of p positions (picture and question), a query
at i sees a key at j if

$$ j \le i \quad \text{or} \quad (i < p \text{ and } j < p), $$

so that a patch knows the question, and the answer is written from left to right. Only the answer is
learned: no loss falls on the prefix. Padding comes last; only itself sees it.

>>> 1 * prefix_mask(4, torch.tensor([2]), torch.tensor([3]))[0]  # 2 of prefix, 1 of answer
tensor([[1, 1, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 1, 0],
        [1, 1, 1, 1]])
>>> model = PaliGemma2.small(50, torch.Generator().manual_seed(0))
>>> images, question = torch.zeros(1, 3, 16, 16), torch.tensor([[2, 7]])
>>> model.answer(images, question, 3, end=1).shape
torch.Size([1, 3])

    uv run weeks/25/paligemma2.py

Sources: Steiner et al., "PaliGemma 2: A family of versatile VLMs for transfer" (2024), section 3;
Beyer et al., "PaliGemma: A versatile 3B VLM for transfer" (2024), section 3. Reduced here: two
layers of width 64 and pictures of 16×16 pixels for 27 and 26 layers and 224×224.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shared.arguments import checked
from shared.require import require
from week25.clip import initialize
from week25.gemma2 import Gemma2, Gemma2Config, window_mask
from week25.siglip import VisionTower

IGNORED = -100  # a target on which no loss falls


@checked
def prefix_mask(
    n: int, prefix: Int[Tensor, " batch"], real: Int[Tensor, " batch"], *, window: int | None = None
) -> Bool[Tensor, "batch n n"]:
    """Which keys each query sees: prefix full, what follows causal, padding seen by none.

    Parameters
    ----------
    prefix, real
        Positions of each row's prefix, and of prefix and answer together; padding follows.
    window
        Of a local layer. The prefix sees all of itself there too, as in transformers.
    """
    inside = ((prefix >= 0) & (prefix <= real) & (real <= n)).all()
    require(inside, f"prefix and real must rise up to n = {n}", prefix.tolist(), real.tolist())
    at = torch.arange(n, device=prefix.device)
    within = at < prefix[:, None]
    seen = window_mask(n, n, window=n if window is None else window).to(prefix.device)
    seen = seen | (within[:, :, None] & within[:, None, :])
    seen = seen & (at < real[:, None])[:, None, :]
    return seen | torch.eye(n, dtype=torch.bool, device=prefix.device)  # a row of none is 0 / 0


class PaliGemma2(nn.Module):
    """Encoder of pictures, linear projector, decoder.

    Parameters
    ----------
    vision
        Gives tokens of width `d_vision`.
    """

    def __init__(
        self, vision: VisionTower, d_vision: int, decoder: Gemma2, generator: torch.Generator
    ):
        super().__init__()
        self.vision, self.decoder = vision, decoder
        self.projector = nn.Linear(d_vision, decoder.config.d_model)
        for part in (self.vision, self.projector):
            initialize(part, generator)

    @classmethod
    def small(
        cls,
        vocab_size: int,
        generator: torch.Generator,
        *,
        side: int = 16,
        patch: int = 4,
        d_vision: int = 64,
        vision_layers: int = 2,
        **decoder: float,
    ) -> "PaliGemma2":
        """One that trains in seconds; further options are those of `Gemma2Config`."""
        sizes = {"n_heads": 4, "n_layers": vision_layers, "d_ff": 2 * d_vision}
        vision = VisionTower(side=side, patch=patch, d_model=d_vision, **sizes)
        config = Gemma2Config(vocab_size, **decoder)
        return cls(vision, d_vision, Gemma2(config, generator), generator)

    def prefix(
        self, images: Float[Tensor, "batch 3 side side"], tokens: Int[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch patches_and_seq d_model"]:
        """Embeddings of patches and words; only those of the words are scaled by √d."""
        patches = self.projector(self.vision(images))
        return torch.cat([patches, self.decoder.embed(tokens)], 1)

    def forward(
        self,
        images: Float[Tensor, "batch 3 side side"],
        tokens: Int[Tensor, "batch seq"],
        prefix: Int[Tensor, " batch"],
        real: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch seq vocab"]:
        """Logits at the words.

        Parameters
        ----------
        tokens
            Question, answer and padding.
        prefix, real
            How many of them are question, and question or answer.
        """
        x = self.prefix(images, tokens)
        n, patches = x.shape[1], x.shape[1] - tokens.shape[1]
        lengths = patches + prefix, patches + real
        allowed = prefix_mask(n, *lengths)
        local = prefix_mask(n, *lengths, window=self.decoder.config.window)
        return self.decoder(x, allowed=allowed, local=local)[:, patches:]

    def loss(
        self,
        images: Float[Tensor, "batch 3 side side"],
        tokens: Int[Tensor, "batch seq"],
        prefix: Int[Tensor, " batch"],
        real: Int[Tensor, " batch"],
    ) -> Float[Tensor, ""]:
        """Mean cross-entropy of the answers' tokens; their end is one of them."""
        logits = self(images, tokens, prefix, real)[:, :-1]
        targets = answer_targets(tokens, prefix, real)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)

    @torch.no_grad()
    def answer(
        self,
        images: Float[Tensor, "batch 3 side side"],
        question: Int[Tensor, "batch seq"],
        n: int,
        *,
        end: int,
        cached: bool = True,
    ) -> Int[Tensor, "batch n"]:
        """The most likely n tokens after questions of one length; after an end, only ends.

        Without `cached` all is computed again for each token, which is slow and must not differ.
        """
        require(n >= 1, "n must be at least 1", n)
        x, window = self.prefix(images, question), self.decoder.config.window
        prefix, found = torch.full((len(x),), x.shape[1]), []
        cache = self.decoder.new_cache(len(x), x.shape[1] + n - 1) if cached else None
        done = torch.zeros(len(x), dtype=torch.bool)
        for i in range(n):
            if i == 0 or cache is None:
                real = torch.full_like(prefix, x.shape[1])
                allowed = prefix_mask(x.shape[1], prefix, real)
                local = prefix_mask(x.shape[1], prefix, real, window=window)
                logits = self.decoder(x, allowed=allowed, local=local, cache=cache)[:, -1]
            else:  # one token sees the whole past, or a window of it
                logits = self.decoder(x[:, -1:], cache=cache)[:, -1]
            token = logits.argmax(-1).masked_fill(done, end)
            done |= token == end
            found.append(token)
            x = torch.cat([x, self.decoder.embed(token[:, None])], 1)
        return torch.stack(found, 1)


@checked
def answer_targets(
    tokens: Int[Tensor, "batch seq"], prefix: Int[Tensor, " batch"], real: Int[Tensor, " batch"]
) -> Int[Tensor, "batch targets"]:
    """What comes next at each position but the last, and `IGNORED` where that is no answer."""
    at = torch.arange(1, tokens.shape[1])
    learned = (at >= prefix[:, None]) & (at < real[:, None])
    return tokens[:, 1:].masked_fill(~learned, IGNORED)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
