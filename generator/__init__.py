"""Generators: a prompt in, sampled responses out."""

from evenhand.generator.base import BaseGenerator
from evenhand.generator.local import Generator
from evenhand.generator.open import open_generator

__all__ = ["BaseGenerator", "Generator", "open_generator"]
