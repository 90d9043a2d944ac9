"""Week 28 · Chatbots."""
