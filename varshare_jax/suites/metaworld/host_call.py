"""Functions of NumPy arrays inside compiled programs, on XLA's own buffers.

`jax.pure_callback` hands over JAX arrays, whose copies wait for the thread pool that the callback
itself occupies: with two CPU devices and a megabyte of arguments it never returns. This module
speaks XLA's foreign function interface (`xla/ffi/api/c_api.h`, version 0) through ctypes instead:
the function sees the buffers and waits for nothing of XLA's. Programs that call one are kept by
the compilation cache, since all they hold of it is its name.
"""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

_EXECUTE = 3  # the stage of a call in which buffers hold values
_METADATA = 1  # the extension by which XLA asks for the interface's version
_FLOAT32 = 11
_INTERNAL = 13  # the code of an error


class _Buffer(ctypes.Structure):
    _fields_ = (("struct_size", ctypes.c_size_t), ("extension", ctypes.c_void_p),
                ("dtype", ctypes.c_int), ("data", ctypes.c_void_p), ("rank", ctypes.c_int64),
                ("dims", ctypes.POINTER(ctypes.c_int64)))


class _Buffers(ctypes.Structure):
    _fields_ = (("struct_size", ctypes.c_size_t), ("extension", ctypes.c_void_p),
                ("size", ctypes.c_int64), ("types", ctypes.c_void_p),
                ("items", ctypes.POINTER(ctypes.POINTER(_Buffer))))


class _Version(ctypes.Structure):
    _fields_ = (("struct_size", ctypes.c_size_t), ("extension", ctypes.c_void_p),
                ("major", ctypes.c_int), ("minor", ctypes.c_int))


class _Error(ctypes.Structure):
    _fields_ = (("struct_size", ctypes.c_size_t), ("extension", ctypes.c_void_p),
                ("message", ctypes.c_char_p), ("code", ctypes.c_int))


class _Api(ctypes.Structure):
    _fields_ = (("struct_size", ctypes.c_size_t), ("extension", ctypes.c_void_p),
                ("version", _Version), ("internal", ctypes.c_void_p),
                ("create_error", ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_Error))))


class _Metadata(ctypes.Structure):
    _fields_ = (("struct_size", ctypes.c_size_t), ("version", _Version))


class _Extension(ctypes.Structure):
    _fields_ = (("struct_size", ctypes.c_size_t), ("type", ctypes.c_int),
                ("next", ctypes.c_void_p), ("metadata", ctypes.POINTER(_Metadata)))


class _Frame(ctypes.Structure):
    _fields_ = (("struct_size", ctypes.c_size_t), ("extension", ctypes.POINTER(_Extension)),
                ("api", ctypes.POINTER(_Api)), ("context", ctypes.c_void_p),
                ("stage", ctypes.c_int), ("arguments", _Buffers), ("results", _Buffers))


_Handler = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_Frame))
_handlers: dict[str, Any] = {}  # XLA calls them for as long as the process lives


def register(name: str, function: Callable[..., Sequence[np.ndarray]]) -> None:
    """Makes `function` known to XLA's CPU backend by `name`, once in a process.

    It maps float32 arrays to arrays of the shapes that `call` was told, may be called by several
    threads at once, and must not depend on anything but its arguments. It must not keep them.
    """
    def handle(frame: Any) -> int | None:
        return _handle(function, frame.contents)

    _handlers[name] = _Handler(handle)
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(_handlers[name]), platform="cpu")


def call(name: str, shapes: Sequence[tuple[int, ...]],
         *arguments: jax.Array) -> Sequence[jax.Array]:
    """Calls a registered function within a traced program; float32 in and out.

    Axes of `vmap` lead in all its arguments and results.
    """
    results = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    return jax.ffi.ffi_call(name, results, vmap_method="broadcast_all")(*arguments)


def _handle(function: Callable[..., Sequence[np.ndarray]], frame: _Frame) -> int | None:
    """What XLA calls; returns the address of an error, None if all went well."""
    if frame.extension and frame.extension.contents.type == _METADATA:
        version, ours = frame.extension.contents.metadata.contents.version, frame.api.contents
        version.major, version.minor = ours.version.major, ours.version.minor
        return None
    if frame.stage != _EXECUTE:
        return None
    try:
        results = _arrays(frame.results)
        for result, value in zip(results, function(*_arrays(frame.arguments)), strict=True):
            result[...] = value
    except Exception as error:  # of whatever kind: nothing but XLA could catch it
        message = f"{type(error).__name__}: {error}".encode()
        return frame.api.contents.create_error(
            _Error(ctypes.sizeof(_Error), None, message, _INTERNAL))
    return None


def _arrays(buffers: _Buffers) -> list[np.ndarray]:
    """The buffers as arrays that share their memory."""
    return [_array(buffers.items[i].contents) for i in range(buffers.size)]


def _array(buffer: _Buffer) -> np.ndarray:
    if buffer.dtype != _FLOAT32:
        raise TypeError(f"only float32 arrays can be handed over, not XLA's type {buffer.dtype}")
    shape = buffer.dims[:buffer.rank]
    size = int(np.prod(shape))
    if not size:
        return np.empty(shape, np.float32)
    memory: Any = (ctypes.c_float * size).from_address(buffer.data)
    return np.frombuffer(memory, np.float32).reshape(shape)
