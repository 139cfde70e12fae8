"""Training: a recipe, a learning-rate schedule, and one trainer that resumes, for proxy and full budgets alike."""

from nas.device import resolve_device
from nas.train.checkpoint import load_weights
from nas.train.evaluation import evaluate
from nas.train.recipe import RECIPES, Recipe, recipe_for
from nas.train.trainer import EpochReport, TrainResult, budget_steps, train

__all__ = [
    "RECIPES",
    "EpochReport",
    "Recipe",
    "TrainResult",
    "budget_steps",
    "evaluate",
    "load_weights",
    "recipe_for",
    "resolve_device",
    "train",
]
