"""Questions to one's own documents, answered with citations that were verified.

uv run rag chat
"""
