"""A mask as a payload: which coordinates are held, written once, so that later payloads need not say it.

The 24-byte header of `compression/wire.py`, with these meanings, then the positions of the smaller side:

    kind              3
    value format      0
    its parameter     0 if the positions are those held, 1 if they are those dropped
    entropy flag      0: the positions as `compression.index` writes them
                      1, BITMAP: the bitmap as a Zstandard frame (`entropy.compress`)
                      1, RICE: one parameter for all gaps, in a byte, in place of the one for every 16
    k                 number of positions, at most n / 2
    bytes of values   0

Of all these the shortest is sent. Three are needed, one for each kind of mask. Scattered coordinates have geometric gaps,
for which one Rice parameter is nearly all there is to know (Golomb 1966; Gallager and van Voorhis 1975). Layers of
different densities want a Huffman table for every stretch of the bitmap. Whole filters repeat, which GAPS sees best.

Bytes without the header in parts of n H(density) / 8, the order-0 entropy; the smallest of each row is sent:

                                             BITMAP  ELIAS_FANO  RICE   GAPS   BITMAP, 1  RICE, 1
    random, n = 10^6, density 0.01           12.297  1.060       1.039  1.017  1.825      1.003
                              0.1             2.137  1.120       1.068  1.022  1.046      1.014
                              0.3             1.136  1.248       1.105  1.037  1.018      1.009
                              0.5             1.000  1.500       1.153  1.058  1.001      1.000
    ResNet-18, layers of their own, 0.6       1.029  1.340       0.886  0.753  0.693      1.029
               filters of their own, 0.3      1.128  1.251       0.973  0.912  0.898      1.027
               whole filters, 0.3             1.134  1.248       0.461  0.006  0.007      1.078
"""

import numpy as np
import torch
from torch import Tensor

from ..bits import flat_nonzero, pack_bits, pack_fixed
from ..entropy import compress, decompress
from ..index import IndexFormat, bitmap, choose, decode_index, rice
from ..index.mixed import refuse, to_gaps
from ..wire import HEADER, HEADER_BYTES, MAGIC, VERSION, Kind

_NEVER = 1 << 62  # bits
_FORMATS = (IndexFormat.BITMAP, IndexFormat.ELIAS_FANO, IndexFormat.RICE, IndexFormat.GAPS)
_SHORTER = (IndexFormat.BITMAP, IndexFormat.RICE)  # those that know the entropy flag
_LARGEST_PARAMETER = 31


def encode_mask(mask: Tensor) -> Tensor:
    """Bool [n], n < 2^32, True where held -> the payload, uint8, on the same device.

    At most 1.05 n H(density) / 8 + 26 bytes for coordinates dropped at random, n >= 10,000; less where they cluster.
    """
    if mask.dtype is not torch.bool or mask.dim() != 1:
        raise ValueError(f"a mask is a bool vector, not {mask.dtype} of shape {tuple(mask.shape)}")
    n, held = mask.numel(), int(mask.count_nonzero())
    dropped = 2 * held > n
    side = ~mask if dropped else mask
    indices = flat_nonzero(side)
    form, written = choose(indices, n, dense_bits=_NEVER, value_bits=0, entropy=True)
    # The simpler comes first, and wins a tie.
    candidates = [
        (form, 0, written),
        (IndexFormat.RICE, 1, _one_parameter(to_gaps(indices))),
        (IndexFormat.BITMAP, 1, compress(pack_bits(side))),
    ]
    form, flag, written = min(candidates, key=lambda candidate: candidate[2].numel())
    header = HEADER.pack(MAGIC, VERSION, Kind.MASK, form, 0, dropped, flag, n, indices.numel(), written.numel(), 0)
    start = torch.from_numpy(np.frombuffer(header, dtype=np.uint8).copy()).to(mask.device)
    return torch.cat((start, written))


def decode_mask(payload: Tensor, n: int) -> Tensor:
    """The inverse of `encode_mask`: uint8 -> bool [n], on the same device; PayloadError unless it is a mask of n."""
    size = payload.numel()
    refuse(size < HEADER_BYTES, f"{size} bytes are too few for a header of {HEADER_BYTES}")
    fields = HEADER.unpack(payload[:HEADER_BYTES].cpu().numpy().tobytes())
    magic, version, kind, form, value, dropped, flag, total, k, index_bytes, value_bytes = fields
    refuse(magic != MAGIC, "not a payload: wrong magic bytes")
    refuse(version != VERSION, f"payload version {version}; this program reads version {VERSION}")
    refuse(
        kind != Kind.MASK or total != n, f"payload of kind {kind} over {total} coordinates; expected a mask over {n}"
    )
    refuse(form not in _FORMATS, f"a mask has no index format {form}")
    refuse(
        flag > 1 or (flag == 1 and form not in _SHORTER), f"a mask in index format {form} has no entropy flag {flag}"
    )
    refuse(dropped > 1 or value != 0 or value_bytes != 0, "a mask has no values, and one of two sides")
    refuse(2 * k > n, f"the smaller side of a mask of {n} coordinates has no {k}")
    refuse(size != HEADER_BYTES + index_bytes, f"payload of {size} bytes; its header says {HEADER_BYTES + index_bytes}")
    written = payload[HEADER_BYTES:]
    if flag and form == IndexFormat.BITMAP:
        written = decompress(written, bitmap.size(n))
    elif flag:
        written = _every_parameter(written, k)
    indices = decode_index(IndexFormat(form), written, n, k)
    return torch.full((n,), bool(dropped), device=payload.device).index_fill_(0, indices, not dropped)


def _one_parameter(gaps: Tensor) -> Tensor:
    """Gaps, int64 [k] -> uint8, RICE with the one parameter that takes the fewest bits, in the first byte."""
    k = gaps.numel()
    # The best is near log2(mean gap * ln 2); it and its neighbours are tried.
    middle = (int(gaps.sum()) // max(k, 1) + 1).bit_length() - 1
    near = range(max(middle - 1, 0), min(middle + 1, _LARGEST_PARAMETER) + 1)
    parameter = min(near, key=lambda b: k * b + int((gaps >> b).sum()))
    parameters = _parameters(parameter, k, gaps)
    written = rice.encode(gaps, parameters)
    return torch.cat((parameters.new_tensor([parameter]), written[_packed(parameters).numel() :]))


def _every_parameter(written: Tensor, k: int) -> Tensor:
    """`_one_parameter` of k gaps -> the same positions in RICE."""
    refuse(written.numel() == 0, "a Rice part with one parameter does not begin with it")
    parameter = int(written[0])
    refuse(parameter > _LARGEST_PARAMETER, f"a Rice parameter is at most {_LARGEST_PARAMETER}, not {parameter}")
    return torch.cat((_packed(_parameters(parameter, k, written)), written[1:]))


def _parameters(parameter: int, k: int, like: Tensor) -> Tensor:
    """Uint8 [ceil(k / 16)], all `parameter`, as `rice.fit` would return them."""
    return torch.full((-(-k // rice.GROUP),), parameter, dtype=torch.uint8, device=like.device)


def _packed(parameters: Tensor) -> Tensor:
    """What RICE begins with."""
    return pack_fixed(parameters, _LARGEST_PARAMETER.bit_length())
