"""The learning rate: up in a line during the warm-up, then down in a line to zero, within every budget."""

from __future__ import annotations

from nas.train.recipe import Recipe


def learning_rate(step: int, total_steps: int, recipe: Recipe) -> float:
    """The rate of step 0..total_steps - 1: always above 0, highest (`recipe.learning_rate`) as the warm-up ends.

    Short budgets rank networks only when the rate has come down, so the line to zero ends with the budget.
    """
    warmup = round(recipe.warmup_fraction * total_steps)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    return recipe.learning_rate * (total_steps - step) / (total_steps - warmup)
