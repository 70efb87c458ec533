"""Networks: trunks by name, heads by name, and the accounting of what a head costs."""

import trnet.tensor.backend  # noqa: F401  first, as it explains a missing MXNet
from trnet.extras import named_if_missing

with named_if_missing("trnet.models"):  # of which gluoncv is the first
    from trnet.models.accounting import ParameterCount, count_head, space_savings
    from trnet.models.backbones import BACKBONES, Backbone, exchangeable, make_backbone, zoo_names
    from trnet.models.heads import HEADS
    from trnet.models.network import Network, build_network, exchange_head, fold
    from trnet.models.pretrained import load_pretrained
    from trnet.models.spatial import spatial_patterns

__all__ = [
    "BACKBONES",
    "HEADS",
    "Backbone",
    "Network",
    "ParameterCount",
    "build_network",
    "count_head",
    "exchange_head",
    "exchangeable",
    "fold",
    "load_pretrained",
    "make_backbone",
    "space_savings",
    "spatial_patterns",
    "zoo_names",
]
