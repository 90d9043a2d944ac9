"""SmolLM2 behind LitServe: batches of those who came within `WAIT` seconds of each other.

    python -m serving.benchmark.batched 8001

A batch is generated as a whole, each step streamed to all of its rows; who comes later waits for
the next one. The interface is LitServe's own for OpenAI's clients.
"""

import sys
from collections.abc import Iterator

import litserve

from serving.benchmark.rivals import Transformers

BATCH, WAIT = 16, 0.05  # rows, and seconds that a batch waits for more


class Chat(litserve.LitAPI):
    """Each step of `generate` goes to all rows of the batch."""

    def setup(self, device: str) -> None:
        """Load the model, in the worker's process."""
        self.model = Transformers()

    def batch(self, inputs: list) -> list:
        """As they are; tokens are padded by the tokenizer."""
        return inputs

    def predict(self, requests: list) -> Iterator[list[str]]:
        """Pieces of text, one for each request."""
        turns = [
            [{"role": m.role, "content": m.content} for m in each.messages] for each in requests
        ]
        yield from self.model.write(turns, max(each.max_tokens for each in requests))

    def unbatch(self, steps: Iterator[list[str]]) -> Iterator[list[str]]:
        """A step is a list already."""
        yield from steps

    def encode_response(self, steps: Iterator[list[str]]) -> Iterator[list[dict]]:
        """In OpenAI's shape."""
        for texts in steps:
            yield [{"role": "assistant", "content": text} for text in texts]


def litserve_server() -> litserve.LitServer:
    """The server, with OpenAI's interface."""
    api = Chat(max_batch_size=BATCH, batch_timeout=WAIT, spec=litserve.OpenAISpec())
    return litserve.LitServer(api, accelerator="cpu", timeout=False)


if __name__ == "__main__":
    options = {"log_level": "error", "generate_client_file": False}
    litserve_server().run(host="127.0.0.1", port=int(sys.argv[1]), **options)
