"""The runtimes of exported graphs, selected by the graph's format, and their devices, selected by name."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from fusion_diff.dependencies import needed
from fusion_diff.edge.exported import GRAPHS, INPUTS, OUTPUTS, WEIGHTS
from fusion_diff.edge.operators import check_operators
from fusion_diff.errors import CheckpointError, DeviceError, speaks_of_memory
from fusion_diff.printable import paragraph

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    Arrays = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]

_CPU = "CPUExecutionProvider"
_PROVIDERS = {
    "CPU": (_CPU,),
    "GPU": (
        "CUDAExecutionProvider",
        "MIGraphXExecutionProvider",
        "ROCMExecutionProvider",
        "DmlExecutionProvider",
        "WebGpuExecutionProvider",
    ),
    "NPU": ("QNNExecutionProvider", "VitisAIExecutionProvider", "CANNExecutionProvider"),
}
"""Execution providers of onnxruntime for each kind of device, fastest first."""
_FULL_PRECISION = {"CUDAExecutionProvider": {"use_tf32": "0"}}
"""Options of onnxruntime's providers without which some machines compute in fewer bits, so that scores would differ."""
_NAMES_OF_TORCH = {"CUDA": "GPU", "XPU": "GPU"}
_VIRTUAL = ("AUTO", "MULTI", "HETERO")
"""Devices of OpenVINO that stand for others, named after a colon."""


class Runtime(Protocol):
    """An exported graph, ready to run.

    Attributes:
        device: device it runs on, as named by the runtime.
        shapes: sizes of each input and output, None where they are free.
    """

    device: str
    shapes: dict[str, tuple[int | None, ...]]

    def __call__(self, pixels: NDArray[np.float32], keep: NDArray[np.float32], /) -> Arrays:
        """Return dense (N, channels, s, s), sums (N, C) and alike (N, references), given tiles (N, 3, T, T).

        Raises:
            CheckpointError: the graph cannot be run.
        """


def open_graph(folder: Path, runtime: str, device: str, threads: int | None) -> Runtime:
    """Load the graph of an exported folder.

    Args:
        folder: the folder; its files must have been verified.
        runtime: `onnx` or `openvino`.
        device: `AUTO`, `CPU`, `GPU`, `NPU`, a device name of the runtime, or `cuda` or `xpu` as torch calls a GPU.
        threads: number of threads; the runtime's default if omitted.

    Raises:
        DependencyError: the runtime is not installed.
        DeviceError: there is no such device here.
        CheckpointError: the graph cannot be loaded, or contains an operator that exports do not.
    """
    if not isinstance(device, str) or not device:
        raise DeviceError(f"{device!r:.80} is not a device; use AUTO, CPU, GPU, NPU, or a device name of the runtime")
    file = folder / GRAPHS[runtime]
    check_operators(file, runtime)
    return OnnxRuntime(file, device, threads) if runtime == "onnx" else OpenVinoRuntime(file, device, threads)


class OnnxRuntime:
    """A graph in onnxruntime. Its devices are execution providers."""

    def __init__(self, file: Path, device: str, threads: int | None) -> None:
        """Load a graph; see `open_graph`."""
        onnxruntime = needed("this exported model", "onnxruntime", "onnx")
        self._file = file
        here = onnxruntime.get_available_providers()
        kind = _kind(device)
        if kind == "AUTO":
            wanted = [name for name in _PROVIDERS["GPU"] if name in here][:1] or [_CPU]
        else:
            named = {name.upper(): name for name in here}
            wanted = [named[name.upper()] for name in _PROVIDERS.get(kind, (kind,)) if name.upper() in named][:1]
        if not wanted:
            raise _absent(device, "onnxruntime", here)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.inter_op_num_threads = 1
        # By default threads spin for a while after a call, in the way of whatever else computes.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if threads is not None:
            options.intra_op_num_threads = threads
        providers = [(name, _FULL_PRECISION.get(name, {})) for name in dict.fromkeys([*wanted, _CPU])]
        try:
            self._session = onnxruntime.InferenceSession(file, options, providers=providers)
        except Exception as error:  # onnxruntime raises many types of its own
            raise _unreadable(file, error) from error
        self.device = self._session.get_providers()[0]
        if self.device != wanted[0] and kind != "AUTO":  # onnxruntime falls back to the CPU and only logs it
            raise _absent(device, "onnxruntime", [name for name in here if name != wanted[0]])
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        _check_names(file, [each.name for each in inputs], INPUTS)
        _check_names(file, [each.name for each in outputs], OUTPUTS)
        self.shapes = {
            each.name: tuple(size if isinstance(size, int) else None for size in each.shape)
            for each in (*inputs, *outputs)
        }

    def __call__(self, pixels: NDArray[np.float32], keep: NDArray[np.float32], /) -> Arrays:
        """Run the graph."""
        try:
            dense, sums, alike = self._session.run(list(OUTPUTS), {"pixels": pixels, "keep": keep})
        except MemoryError:
            raise
        except Exception as error:  # as above
            raise _not_run(self._file, error) from error
        return dense, sums, alike


class OpenVinoRuntime:
    """A graph in OpenVINO. Its devices are plugins. Threads take turns, as a request holds one input at a time."""

    def __init__(self, file: Path, device: str, threads: int | None) -> None:
        """Load a graph; see `open_graph`."""
        openvino = needed("this exported model", "openvino", "openvino")
        self._file = file
        core = openvino.Core()
        here = core.available_devices
        wanted = _kind(device)
        virtual, _, listed = wanted.partition(":")
        names = listed.split(",") if virtual in _VIRTUAL and listed else here if wanted == "AUTO" else [wanted]
        if not all(any(each == name or each.startswith(f"{name}.") for each in here) for name in names):
            raise _absent(device, "openvino", here)
        if len(names) == 1:
            wanted = names[0]
        # Without the precision hint, some machines compute in bfloat16, and scores would differ between machines.
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if threads is not None and "CPU" in names:
            settings["INFERENCE_NUM_THREADS"] = threads
        core.set_property({"ENABLE_MMAP": False})  # a model that was checked must not change with its file
        try:
            compiled = core.compile_model(core.read_model(file, file.with_name(WEIGHTS)), wanted, settings)
            _check_names(file, [each.any_name for each in compiled.inputs], INPUTS)
            self._outputs = [compiled.output(name) for name in OUTPUTS]
            self.shapes = {
                each.any_name: tuple(size.get_length() if size.is_static else None for size in each.partial_shape)
                for each in (*compiled.inputs, *compiled.outputs)
            }
            self._request, self._turn = compiled.create_infer_request(), Lock()
        except RuntimeError as error:  # the only type that OpenVINO raises
            raise _unreadable(file, error) from error
        self.device = wanted

    def __call__(self, pixels: NDArray[np.float32], keep: NDArray[np.float32], /) -> Arrays:
        """Run the graph."""
        try:
            with self._turn:
                results = self._request.infer({"pixels": pixels, "keep": keep}, share_inputs=True)
                dense, sums, alike = (results[output] for output in self._outputs)
        except RuntimeError as error:
            raise _not_run(self._file, error) from error
        return dense, sums, alike


def _kind(device: str) -> str:
    return _NAMES_OF_TORCH.get(device.upper(), device.upper())


def _absent(device: str, package: str, here: list[str]) -> DeviceError:
    return DeviceError(
        f"{paragraph(device, 80)}: {package} has no such device here, only {', '.join(here)}; use AUTO or one of "
        f"these, or install the driver and the {package} build for the device"
    )


def _unreadable(file: Path, error: Exception) -> CheckpointError | MemoryError:
    if isinstance(error, MemoryError) or speaks_of_memory(error):
        return MemoryError(f"{file}: not enough memory to load it; close other programs")
    return CheckpointError(f"{file}: cannot be loaded ({paragraph(error, 300)}); export the model again")


def _not_run(file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{file}: cannot be run ({paragraph(error, 300)}); free memory, use the device CPU, or export the model again"
    )


def _check_names(file: Path, found: list[str], expected: tuple[str, ...]) -> None:
    if sorted(found) != sorted(expected):
        raise CheckpointError(
            f"{file}: expected the inputs or outputs {', '.join(expected)}, got {paragraph(', '.join(found), 200)}; "
            "export the model again"
        )
