"""The nouns of evenhand: taxonomy, verdict, generation, requests and the error tree."""

from evenhand.schemas.errors import EvenhandError, RequestError, RetryableError
from evenhand.schemas.generation import Generation, Sampling
from evenhand.schemas.requests import Item
from evenhand.schemas.taxonomy import Taxonomy, builtin_taxonomies
from evenhand.schemas.verdict import Failure, Status, Verdict

__all__ = [
    "EvenhandError",
    "Failure",
    "Generation",
    "Item",
    "RequestError",
    "RetryableError",
    "Sampling",
    "Status",
    "Taxonomy",
    "Verdict",
    "builtin_taxonomies",
]
