"""Memory of a training step, counted without computing it.

The real step runs on fake tensors: they have shapes, types, strides and lifetimes, but no data. A
tensor's storage counts from the operation that makes it until nobody holds it any more, the
autograd graph included; views and in-place results share one. So a step of any size is counted in
seconds on any machine, and options that trade memory for time (activation checkpointing, mixed
precision, channels last, local spans) count as they are.

A CPU's process holds more than its tensors, because new ones must fit into the holes of old ones;
`FakeStep.process_bytes` asks the C library's allocator how much (`machine.arena`).

These are not counted: scratch memory inside one operation (cuDNN's workspaces; a softmax's copy of
an input that is not in order is), what CUDA's allocator rounds up, and the CUDA context. The
operators are those of the CPU.

Where a value decides about a size (how many masks there are, which slot each one matches), an
assumption stands for it; see `FakeStep`.
"""

import weakref
from array import array
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from axialseg.machine.arena import arena_bytes
from axialseg.tasks.training_task import TrainingTask

# Lightning's precision -> type that autocast computes in.
AUTOCAST = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}

STEPS_PLAYED = 2  # the second one finds the holes of the first, and the optimiser's state in them
BOOKKEEPING = 3072  # bytes that a process holds for each tensor that a step makes, beside its data
# Operations that copy an input whose elements do not lie in order.
COPY_TO_ORDER = (torch.ops.aten._log_softmax.default, torch.ops.aten._softmax.default)

Batch = dict[str, Tensor]


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, while somebody holds them.

    Attributes:
        now: bytes held at present.
        peak: highest `now` since the start or the last `reset_peak`.
        events: what came and went, as `machine.arena.arena_bytes` takes it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self.events = array("q")
        self._count = 0
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def reset_peak(self) -> None:
        """Lets `peak` begin at what is held now."""
        self.peak = self.now

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Runs an operation and counts its results; their inputs are still held then."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        if func in COPY_TO_ORDER and not args[0].is_contiguous():
            self._add_for_a_moment(args[0].nbytes)
        return result

    def _add_for_a_moment(self, size: int) -> None:
        """A block that the operation itself has freed."""
        self._count += 1
        self.events.extend((self._count, size, -self._count, 0))
        self.peak = max(self.peak, self.now + size)

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._storages:
            return

        self._count += 1
        number = self._count

        def free(_: object) -> None:
            del self._storages[key]
            self.now -= size
            self.events.extend((-number, 0))

        self._storages[key] = weakref.ref(storage, free)
        self.now += size
        self.events.extend((number, size))
        self.peak = max(self.peak, self.now)


class _Unknown(TorchFunctionMode):
    """Gives values for fake tensors, which have none, where code asks for them outside torch.

    Args:
        count: what a whole number is taken for.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Runs a function; `int(x)` is `count` if x has no known value, and `x.numpy()` zeros."""
        if func is Tensor.numpy:
            return np.zeros(args[0].shape, str(args[0].dtype).removeprefix("torch."))
        try:
            return func(*args, **(kwargs or {}))
        except DataDependentOutputException:
            if func is Tensor.__int__:
                return self.count
            raise


class FakeStep:
    """A training step that computes nothing and counts its memory.

    Args:
        make_task: builds the task; the default device is meta then.
        sample: name -> array of one training sample, of which shape and type count.
        precision: Lightning's name, a key of `AUTOCAST`.
        masks: ground-truth masks of an image (MaX-DeepLab's loss has a row for each).

    Attributes:
        weights: bytes of parameters and running statistics.
        gradients: bytes, as large as the parameters that are trained.
        optimizer_state: bytes that the optimiser keeps between steps.
    """

    def __init__(
        self,
        make_task: Callable[[], TrainingTask],
        sample: Mapping[str, NDArray[Any]],
        precision: str,
        masks: int,
    ) -> None:
        self._sample = sample
        self._dtype = AUTOCAST[precision]
        self._unknown = _Unknown(masks)
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._live = LiveBytes()
        self._peaks: dict[int, int] = {}
        self._taken: dict[int, int] = {}
        with torch.device("meta"):
            self._task = make_task().train()
        net, self._task.net = self._task.net, nn.Identity()
        loss = self._task.loss
        if isinstance(loss, nn.Module):  # it may hold class weights
            self._task.loss = nn.Identity()
        self._task.to("cpu")  # Lightning's note of the device; fake weights cannot be moved
        with self._mode, self._live:
            self._task.net = net.to_empty(device="cpu")
            if isinstance(loss, nn.Module):
                self._task.loss = loss.to_empty(device="cpu")
            self._optimizer = make_optimizer(self._task)
        self.weights = self._live.now
        self._built = self._live.events[:]
        self.peak_bytes(1)
        self._peaks.clear()  # this step began without a state of the optimiser
        state = [x for values in self._optimizer.state.values() for x in values.values()]
        self.optimizer_state = sum(x.nbytes for x in state if isinstance(x, Tensor))
        self.gradients = sum(p.grad.nbytes for p in self._task.parameters() if p.grad is not None)

    def use(self, sample: Mapping[str, NDArray[Any]]) -> None:
        """Goes on with samples of other shapes, such as another crop."""
        self._sample = sample
        self._peaks.clear()
        self._taken.clear()

    def peak_bytes(self, images: int) -> int:
        """Highest number of bytes held during a step with so many images."""
        if images not in self._peaks:
            self._live.reset_peak()
            self._run(images)
            self._peaks[images] = self._live.peak
        return self._peaks[images]

    def process_bytes(self, images: int) -> int:
        """What training with so many images adds to a process on a CPU that keeps freed memory.

        Where the C library does not tell, it follows from `peak_bytes`.
        """
        if images not in self._taken:
            # As at the start of a training, whose first step makes the optimiser's state.
            self._optimizer.zero_grad()
            self._optimizer.state.clear()
            begin = len(self._live.events)
            for _ in range(STEPS_PLAYED):
                self._run(images)
            taken = arena_bytes(self._built + self._live.events[begin:])
            taken = self.peak_bytes(images) if taken is None else taken
            made = sum(number > 0 for number in self._live.events[begin::2]) // STEPS_PLAYED
            self._taken[images] = taken + BOOKKEEPING * made
        return self._taken[images]

    def _run(self, images: int) -> None:
        """One step."""
        with self._mode, self._live, self._unknown:
            batch = {
                name: torch.empty(
                    images, *array.shape, dtype=torch.from_numpy(array.reshape(-1)[:0]).dtype
                )
                for name, array in self._sample.items()
            }
            training_step(self._task, self._optimizer, batch, self._dtype)


def make_optimizer(task: TrainingTask) -> Optimizer:
    """The optimiser of a task that can be trained, as Lightning gets it."""
    assert task.optimizer is not None
    assert task.parameter_groups is not None
    return task.optimizer(task.parameter_groups(task.net))


def training_step(
    task: TrainingTask, optimizer: Optimizer, batch: Batch, autocast: torch.dtype | None
) -> None:
    """One optimiser step, in the order in which Lightning does it.

    The gradients of the step before are held until the forward pass has ended.

    Args:
        task: in training mode.
        optimizer: of its parameters.
        batch: as of the task's `training_losses`.
        autocast: type of mixed precision, None for none.
    """
    device = batch["image"].device.type
    with torch.autocast(device, autocast, enabled=autocast is not None):
        total = task.training_losses(task.ordered(batch)).total.sum()
    optimizer.zero_grad()
    total.backward()
    optimizer.step()


class Share(NamedTuple):
    """How some devices make up the recipe's batch.

    Attributes:
        devices: their number.
        images: of one device and forward pass.
        accumulated: `trainer.accumulate_grad_batches`.
    """

    devices: int
    images: int
    accumulated: int


def share_batch(batch_size: int, devices: int, largest: int) -> Share | None:
    """The fewest forward passes that make up a batch, each with at most `largest` images.

    Args:
        batch_size: images per optimiser step over all devices.
        devices: their number.
        largest: images that fit into one device.

    Returns:
        None if the devices cannot share the batch evenly, or no image fits.
    """
    per_device, rest = divmod(batch_size, devices)
    if rest or largest < 1:
        return None
    images = next(n for n in range(min(largest, per_device), 0, -1) if per_device % n == 0)
    return Share(devices, images, per_device // images)


def largest_batch(peak_bytes: Callable[[int], int], limit: int) -> int:
    """The most images whose step stays within a limit.

    Args:
        peak_bytes: images -> bytes, which grow with them; nearly along a line, or it takes longer.
        limit: bytes.

    Returns:
        0 if not even one image does.
    """
    low, low_bytes = 1, peak_bytes(1)
    if low_bytes > limit:
        return 0
    high, high_bytes = 2, peak_bytes(2)
    while high_bytes <= limit:
        further = (limit - high_bytes) * (high - low) // max(high_bytes - low_bytes, 1)
        low, low_bytes = high, high_bytes
        high = low + min(max(further, 1), 7 * low)
        high_bytes = peak_bytes(high)
    while high - low > 1:
        further = (limit - low_bytes) * (high - low) // (high_bytes - low_bytes)
        middle = min(low + max(further, 1), high - 1)
        middle_bytes = peak_bytes(middle)
        if middle_bytes <= limit:
            low, low_bytes = middle, middle_bytes
        else:
            high, high_bytes = middle, middle_bytes
    return low
