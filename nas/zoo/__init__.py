"""Published networks as architectures with their counts, and the reader of the descriptions they are exchanged in."""

from nas.zoo.networks import PUBLISHED, Published
from nas.zoo.reference import architecture_from_reference

__all__ = ["PUBLISHED", "Published", "architecture_from_reference"]
