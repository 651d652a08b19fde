"""Generators: a prompt in, sampled responses out."""

from evenhand.generator.base import BaseGenerator
from evenhand.generator.local import Generator
from evenhand.generator.open import open_generator
from evenhand.generator.remote import RemoteGenerator

__all__ = ["BaseGenerator", "Generator", "RemoteGenerator", "open_generator"]
