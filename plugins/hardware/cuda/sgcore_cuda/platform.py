"""NVIDIA GPUs as a platform."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch

from sgcore.api import Memory, Platform
from sgcore.errors import LaunchError
from sgcore.kernels import Kernels
from sgcore_cuda.kernels import CudaKernels


class CudaPlatform(Platform):
    """One GPU; steps are launched ahead, decode steps as captured graphs."""

    name = "cuda"
    device_type = "cuda"
    dtypes = ("bfloat16", "float16", "float32")
    default_attention = "triton_cudnn"
    memory_share = 0.88
    run_ahead = 1
    can_capture = True

    def initialise(self, rank: int) -> torch.device:
        if not torch.cuda.is_available():
            raise LaunchError(
                f"torch {torch.__version__} sees no CUDA device", "install torch for CUDA, or serve with --platform cpu"
            )
        torch.cuda.set_device(rank)
        self._capture_stream = torch.cuda.Stream()
        self._graph_memory = torch.cuda.graph_pool_handle()
        return torch.device("cuda", rank)

    def memory(self) -> Memory:
        free, total = torch.cuda.mem_get_info()
        reusable = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return Memory(total, free + reusable)

    def kernels(self) -> Kernels:
        return CudaKernels()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """A CUDA graph. Graphs share their memory, since one is replayed after another."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._capture_stream):
            # Only this thread's calls count: others may use the device meanwhile.
            graph.capture_begin(pool=self._graph_memory, capture_error_mode="thread_local")
            try:
                work()
                graph.capture_end()
            except BaseException:
                self._give_up(graph)
                raise
        return graph.replay

    def _give_up(self, graph: torch.cuda.CUDAGraph) -> None:
        """End a capture that failed; what it has allocated stays with its own stream and memory."""
        with suppress(RuntimeError):
            graph.capture_end()
        with suppress(RuntimeError):
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self._graph_memory)
        self._capture_stream, self._graph_memory = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
