"""From documents to batches: sources, deduplication, tokenizers, token files, batches by step."""
