"""What a run computes on: Accelerate's device and processes, the measured precision, layout and threads."""

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from mobilenets.errors import EnvironmentFault, InputError, MissingExtra
from mobilenets.machine import cpu_name
from mobilenets.network import MobileNet
from mobilenets.text import count
from mobilenets.training.plan import Plan
from mobilenets.training.speed import Speed, choose, memory_format

if TYPE_CHECKING:
    from accelerate import Accelerator

DEVICES = (None, "cpu")


def check_device(device: str | None) -> None:
    """Refuse anything but `cpu` or nothing."""
    if device not in DEVICES:
        raise InputError(
            f"device is {device!r}; accepted: cpu, or nothing for what Accelerate finds.",
            remedy="Choose among several GPUs with CUDA_VISIBLE_DEVICES or `accelerate launch`.",
        )


def open_device(network: MobileNet, plan: Plan, device: str | None) -> "tuple[Accelerator, Speed]":
    """The accelerator, and the choice that was measured; `network` is moved there, in its layout.

    With several processes (`accelerate launch`) the first one's choice holds for all.
    """
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState, PartialState
        from accelerate.utils import broadcast_object_list, is_bf16_available
    except ImportError as error:
        raise MissingExtra("training", "train", "accelerate") from error
    check_device(device)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    # What an earlier run of this process chose must not bind this one.
    AcceleratorState._reset_state(reset_partial_state=processes == 1)
    state = PartialState(cpu=device == "cpu")
    if processes > 1 and state.num_processes == 1:
        raise EnvironmentFault(
            f"{processes} processes were launched, but Accelerate found no way to join them.",
            remedy="On CPUs launch them with --device cpu; on GPUs see `accelerate env`.",
        )
    recipe = plan.recipe
    if recipe.precision == "auto" and not is_bf16_available():
        recipe = dataclasses.replace(recipe, precision="fp32")
    chosen = [choose(network, plan.spec, recipe, state.device) if state.is_main_process else None]
    speed = broadcast_object_list(chosen)[0] if processes > 1 else chosen[0]
    assert isinstance(speed, Speed)
    accelerator = Accelerator(
        cpu=device == "cpu", mixed_precision="bf16" if speed.precision == "bf16" else "no"
    )
    network.to(accelerator.device, memory_format=memory_format(speed.layout))  # type: ignore[call-overload]
    return accelerator, speed


@contextmanager
def threads(wanted: int) -> Iterator[None]:
    """Torch with `wanted` threads, and afterwards with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device_name(device: torch.device, speed: Speed) -> str:
    """The device in words: `cpu (AMD EPYC, 2 threads)`."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    if device.type == "cpu":
        return f"cpu ({cpu_name()}, {count(speed.threads, 'thread')})"
    return str(device.type)


def precision_name(speed: Speed) -> str:
    """Precision and layout in words: `bf16, channels last`."""
    return f"{speed.precision}{', channels last' if speed.layout == 'channels_last' else ''}"
