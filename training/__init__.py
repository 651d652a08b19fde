"""Training of the two bundled models, from text of our own to GGUF files.

`python -m evenhand.training` runs the whole chain. Modules that build text need nothing but the
standard library; torch, tokenizers and gguf are imported only where they are used.
"""
