"""Networks: backbones and heads by name, and what a head costs."""

import trnet.tensor.backend  # noqa: F401  first, as it explains a missing MXNet
from trnet.extras import named_if_missing

with named_if_missing("trnet.models"):  # of which gluoncv is the first
    from trnet.models.backbones import BACKBONES, Backbone
    from trnet.models.head_removal import remove_head
    from trnet.models.heads import HEADS
    from trnet.models.network import Network, attach_head, build_network
    from trnet.models.parameter_count import ParameterCount, check_sizes, count_head
    from trnet.models.pretrained import Start, load_pretrained, rank_by_savings
    from trnet.models.spatial import spatial_patterns
    from trnet.models.weights import rank_of_trl
    from trnet.models.zoo import make_backbone, zoo_names

__all__ = [
    "BACKBONES",
    "HEADS",
    "Backbone",
    "Network",
    "ParameterCount",
    "Start",
    "attach_head",
    "build_network",
    "check_sizes",
    "count_head",
    "load_pretrained",
    "make_backbone",
    "rank_by_savings",
    "rank_of_trl",
    "remove_head",
    "spatial_patterns",
    "zoo_names",
]
