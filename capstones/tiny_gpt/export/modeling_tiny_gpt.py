"""A tiny-gpt as a model of `transformers`, for architectures that library has no class for.

An exported folder holds this file together with the source of all that it uses, so that it needs
torch and transformers 5 alone (`tiny_gpt.export.custom_code`)::

    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
"""

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from tiny_gpt.model.config import GPTConfig
from tiny_gpt.model.gpt import GPT


class TinyGPTConfig(PretrainedConfig):
    """The decoder's configuration `gpt`, and its sizes under the names other programs look for."""

    model_type = "tiny_gpt"

    def __init__(self, gpt: dict | None = None, **kwargs):
        self.gpt = gpt or {"vocab_size": 256}
        config = GPTConfig(**self.gpt)
        names = {"hidden_size": "d_model", "num_hidden_layers": "n_layers", "head_dim": "head_dim"}
        names |= {"num_attention_heads": "n_heads", "num_key_value_heads": "n_kv_heads"}
        names |= {"intermediate_size": "d_ff", "max_position_embeddings": "context"}
        for theirs, ours in {**names, "vocab_size": "vocab_size"}.items():
            kwargs.pop(theirs, None)
            setattr(self, theirs, getattr(config, ours))
        kwargs["tie_word_embeddings"] = config.tied
        super().__init__(**kwargs)


class _Cache:
    """A cache of transformers as the decoder asks for it."""

    def __init__(self, cache):
        self.cache, self.length = cache, cache.get_seq_length()

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return self.cache.update(k, v, layer)

    def advance(self, n: int) -> None:
        """Theirs counts by itself."""


class TinyGPTForCausalLM(PreTrainedModel, GenerationMixin):
    """The decoder with the interface of transformers: `generate`, `save_pretrained`, a loss."""

    config_class = TinyGPTConfig
    base_model_prefix = "model"
    _no_split_modules = ["Block"]  # noqa: RUF012
    _supports_sdpa = True
    _tied_weights_keys = {"model.head.weight": "model.embed.weight"}  # noqa: RUF012

    def __init__(self, config: TinyGPTConfig):
        super().__init__(config)
        self.model = GPT(GPTConfig(**config.gpt))
        # Every layer is called as a module, so that adapters and hooks put on one take effect.
        self.model.fused = False
        self.post_init()

    def _init_weights(self, module):
        # The rotary frequencies are in no file: a model built without memory gets them here.
        if isinstance(module, GPT) and module.config.positions == "rotary":
            module.frequencies = module.exact_frequencies().to(module.embed.weight.device)

    def get_input_embeddings(self):
        """The table of tokens."""
        return self.model.embed

    def get_output_embeddings(self):
        """The output head."""
        return self.model.head

    def prepare_inputs_for_generation(
        self, input_ids, past_key_values=None, attention_mask=None, use_cache=None, **kwargs
    ):
        """What one step reads: the tokens that are not in the cache, and the one before each."""
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        before = torch.nn.functional.pad(input_ids[:, :-1], (1, 0), value=self.config.vocab_size)
        return {
            "input_ids": input_ids[:, past:],
            "previous_ids": before[:, past:],
            "attention_mask": attention_mask,
            "past_key_values": past_key_values,
            "use_cache": use_cache,
        }

    def forward(
        self,
        input_ids,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        previous_ids=None,
        labels=None,
        use_cache=None,
        return_dict=None,
        **kwargs,
    ):
        """Logits of the next token; sequences of unequal length are padded on the left.

        `previous_ids`, the token before each one, is needed where a cache holds the earlier ones.
        """
        if past_key_values is None and use_cache:
            past_key_values = DynamicCache()
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        n = input_ids.shape[1]
        mask = None
        if attention_mask is not None:
            if attention_mask.ndim != 2:
                got = tuple(attention_mask.shape)
                raise ValueError(f"attention_mask must be batch by sequence, got shape {got}")
            if not attention_mask.all():
                mask = attention_mask.bool()
                if position_ids is None:
                    position_ids = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, past:]
        if position_ids is None:
            position_ids = torch.arange(past, past + n, device=input_ids.device)
        if self.model.config.mix_previous:
            if previous_ids is None:
                if past:
                    raise ValueError("previous_ids must be given with a cache that is not empty")
                previous_ids = self.model.tokens_before(input_ids, position_ids)
            previous_ids = previous_ids.masked_fill(position_ids == 0, self.config.vocab_size)
        logits = self.model(
            input_ids,
            positions=position_ids,
            cache=_Cache(past_key_values) if past_key_values is not None else None,
            mask=mask,
            previous=previous_ids,
        )
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size)
        output = CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)
        return output if return_dict is not False else output.to_tuple()
