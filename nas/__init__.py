"""ParetoNeSt: accuracy-cost Pareto fronts of the family ResNet → ResNeXt → SE-Net → SK-Net → ResNeSt."""

__version__ = "0.1.0"
