"""`python -m tiny_gpt`, as torchrun starts it: `torchrun --nproc-per-node 2 -m tiny_gpt train`."""

from tiny_gpt.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
