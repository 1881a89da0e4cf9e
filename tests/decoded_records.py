"""What a backbone with or without a stacked decoder hands on to further decoder stages."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from axialseg.backbones.backbone import records_by_stride
from axialseg.backbones.residual_network import ResidualNetwork


def decoded(net: ResidualNetwork, stages: Mapping[str, Tensor]) -> Mapping[int, Sequence[Tensor]]:
    """Tensors before activation by stride, from what `raw_stages` returns."""
    raw = {name.replace("stage", "res"): x for name, x in stages.items()}
    records = records_by_stride(raw, net.strides)
    return records if net.stacked_decoder is None else net.stacked_decoder(records)
