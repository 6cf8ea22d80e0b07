"""Questions to libraries that may print, hang or crash when asked: each in a process of its own.

``probe.onnx`` is the smallest model that runs on anything: y = x + x over float32[4], opset 13.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import resources
from typing import Any, Final

_TIMEOUT_S: Final = 60.0
_ONNX: Final = """
import json, sys
import numpy
import onnxruntime
onnxruntime.set_default_logger_severity(4)
found = {"version": onnxruntime.__version__, "claimed": onnxruntime.get_available_providers(), "working": {}}
for name in found["claimed"]:
    try:
        session = onnxruntime.InferenceSession(sys.argv[1], providers=[name])
        right = session.run(None, {"x": numpy.ones(4, "f4")})[0].tolist() == [2.0] * 4
        found["working"][name] = name in session.get_providers() and right
    except Exception as error:
        found["working"][name] = False
print("\\n" + json.dumps(found))
"""
_TORCH: Final = """
import json, torch
ok = torch.cuda.is_available()
print("\\n" + json.dumps({"version": torch.__version__, "cuda": torch.cuda.get_device_name(0) if ok else None}))
"""
_BLAS: Final = """
import json, numpy, scipy.linalg, threadpoolctl
print("\\n" + json.dumps(threadpoolctl.threadpool_info()))
"""


def _ask(program: str, *arguments: str) -> Any:
    """Run a program; return the JSON of its last line, or the reason why there is none as a string."""
    try:
        done = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
        return json.loads(done.stdout.strip().rpartition("\n")[2])
    except subprocess.TimeoutExpired:
        return f"no answer in {_TIMEOUT_S:g} s"
    except json.JSONDecodeError:
        said = done.stderr.strip().rpartition("\n")[2]
        return said or f"ended with code {done.returncode}"


def onnx_providers() -> dict[str, Any] | str:
    """Return ONNX Runtime's version, the providers it claims, and which of them a session really gets.

    Only a session's own list tells the truth: the GPU wheel claims CUDA on a machine without it, and a session
    that asks for CUDA there falls back without an error.
    """
    with resources.as_file(resources.files("streamer") / "probe.onnx") as model:
        answer: dict[str, Any] | str = _ask(_ONNX, str(model))
    return answer


def torch_cuda() -> dict[str, Any] | str:
    """Return PyTorch's version and the name of its CUDA device, if it has one."""
    answer: dict[str, Any] | str = _ask(_TORCH)
    return answer


def blas_pools() -> list[dict[str, Any]] | str:
    """Return the thread pools that numpy and scipy bring, as threadpoolctl sees them."""
    answer: list[dict[str, Any]] | str = _ask(_BLAS)
    return answer
