"""For pytest, `-p tests.cuda_double.plugin`: a process whose PyTorch sees one GPU, the double. CUDA_DOUBLE names the library
of `build`, CUDA_DOUBLE_TRITON=1 gives it Triton."""

import ctypes
import os

ctypes.CDLL(os.environ["CUDA_DOUBLE"])  # before torch is imported

from tests.cuda_double.double import install  # noqa: E402

install(os.environ["CUDA_DOUBLE"], triton=os.environ.get("CUDA_DOUBLE_TRITON") == "1")
