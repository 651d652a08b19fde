"""Generators: a prompt in, sampled responses out."""

from evenhand.generator.base import BaseGenerator
from evenhand.generator.local import Generator

__all__ = ["BaseGenerator", "Generator"]
