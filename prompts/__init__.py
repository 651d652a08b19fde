"""The words of evenhand: judge templates and generation set-ups as Jinja files."""

from evenhand.prompts.templates import Kind, Template, Words, available, load

__all__ = ["Kind", "Template", "Words", "available", "load"]
