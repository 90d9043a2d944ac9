"""Models for other programs: Hugging Face's folder, ONNX, GGUF; and back."""
