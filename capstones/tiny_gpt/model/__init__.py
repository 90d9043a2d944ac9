"""The decoder, and its training block fused into one operator."""
