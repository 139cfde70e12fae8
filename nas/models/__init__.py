"""The networks: `build(arch)` turns an Architecture into a torch module, and knows of no search.

Inside a block the state-dict names follow its formula: pre, mix, post, gate, shortcut, each with conv and bn.
"""

from nas.models.network import Network, build

__all__ = ["Network", "build"]
