"""What is wrong with a recipe, in words of its author: which field, and what was probably meant."""

import difflib
from collections.abc import Iterator

from pydantic import ValidationError

from training.config import AugmentationConfig, DataSource, TrainingConfig


def explain(error: ValidationError) -> Iterator[tuple[str, str]]:
    """Turn what pydantic found into lines for people.

    Yields:
        Where (the dotted field) and what, with its remedy.
    """
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"]) or "configuration"
        message = problem["msg"]
        if problem["type"] == "extra_forbidden":
            message = f"unknown field{_nearest_field(str(problem['loc'][-1]))}"
        elif problem["type"] == "literal_error":
            message = f"{problem['input']!r} is none of {problem['ctx']['expected']}" + _nearest(
                str(problem["input"]), problem["ctx"]["expected"].split("'")[1::2]
            )
        elif problem["type"] == "missing":
            message = "is missing; training/recipes/default.toml shows a whole recipe"
        yield where, message


def _nearest_field(name: str) -> str:
    fields = [*TrainingConfig.model_fields, *DataSource.model_fields]
    fields += AugmentationConfig.model_fields
    return _nearest(name, fields) or "; remove it (training/config.py has all)"


def _nearest(name: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""
