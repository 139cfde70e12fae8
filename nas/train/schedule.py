"""The learning rate by step, and how a budget of steps is spent: three schemes that rank networks at every budget.

cycle: up in a line, then down in a line to zero, within each budget; a larger budget is another training.
branch: up in a line, then constant, whatever the budget; to be evaluated at a budget, a copy of the training is cooled
    down to zero over the budget's last steps and thrown away, and the training itself goes on from where it branched
    off (warm-up, stable, decay: arXiv:2405.18392, section 3).
average: up in a line, then constant; evaluated is the average of the weights on the way, which weighs later steps more
    (polynomial-decay averaging: arXiv:1212.1824, section 4).
"""

from __future__ import annotations

from nas.train.recipe import Recipe

AVERAGE_DECAY = 8
"""gamma of the polynomial-decay average: the weights of step t count (gamma + 1) / (t + gamma) when they come in."""


def trunk_steps(budget_steps: int, recipe: Recipe) -> int:
    """How many steps of a budget belong to the training that a larger budget continues; the rest is cool-down."""
    if recipe.schedule != "branch":
        return budget_steps
    cooldown = max(1, round(recipe.cooldown_fraction * budget_steps))
    return max(budget_steps - cooldown, 1)


def learning_rate(step: int, budget_steps: int, recipe: Recipe) -> float:
    """The rate of step 0..budget_steps - 1: always above 0, at most `recipe.learning_rate`.

    Short budgets rank networks only when the rate has come down (or the weights are averaged), so each scheme has
    come down when its budget ends. In a trunk the rate does not depend on the budget.
    """
    if recipe.schedule == "cycle":
        warmup = round(recipe.warmup_fraction * budget_steps)
        if step >= warmup:
            return recipe.learning_rate * (budget_steps - step) / (budget_steps - warmup)
        return recipe.learning_rate * (step + 1) / warmup
    trunk = trunk_steps(budget_steps, recipe)
    if step >= trunk:
        return _trunk_rate(trunk - 1, recipe) * (budget_steps - step) / (budget_steps - trunk + 1)
    return _trunk_rate(step, recipe)


def _trunk_rate(step: int, recipe: Recipe) -> float:
    return recipe.learning_rate * min(1.0, (step + 1) / max(recipe.warmup_steps, 1))


def average_weight(step: int) -> float:
    """The share of the weights after `step` steps (from 1) in their running average."""
    return (AVERAGE_DECAY + 1) / (step + AVERAGE_DECAY)
