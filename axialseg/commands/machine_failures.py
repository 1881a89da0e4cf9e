"""Sentences for what a machine does to a run: a full disk, too little memory, a killed process."""

import errno
import re

from axialseg.errors import RunFailedError, UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LOCKED = (errno.EROFS, errno.EACCES, errno.EPERM)
NO_MEMORY = ("CUDA out of memory", "DefaultCPUAllocator: can't allocate memory")
WORKER = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: |exited)"
)


def machine_failure(error: BaseException) -> UserError | None:
    """The sentence for the user if an exception tells of such a failure, else None.

    Args:
        error: one exception, without what it came from.
    """
    text = str(error)
    is_shared_memory = "torch_" in text and ("/dev/shm" in text or "shared memory" in text)
    if is_shared_memory or ("DataLoader worker" in text and "Bus error" in text):
        return UserError(
            "the loader workers have too little shared memory (/dev/shm); give the container more, "
            "as docker run --shm-size=8g, or load without workers: data.num_workers=0 "
            "data.val_num_workers=0"
        )
    worker = WORKER.search(text)
    if worker:
        signal_name = re.search(r"signal: ([\w ]+)", text)
        how = f"by the signal {signal_name[1]}" if signal_name else "from outside"
        return RunFailedError(
            f"loader worker {worker[1]} was ended {how}, as the system does when memory is short; "
            "lower data.num_workers, then start the same command again"
        )
    if isinstance(error, MemoryError) or any(words in text for words in NO_MEMORY):
        return RunFailedError(
            f"the memory is too small ({text.strip().splitlines()[0] if text else 'MemoryError'}); "
            "take smaller images or batches, in training as trainer.accumulate_grad_batches=2"
        )
    if isinstance(error, OSError) and error.errno in (*FULL, *LOCKED):
        place = error.filename or "a file of this run"
        if error.errno in LOCKED and error.errno != errno.EROFS:
            return UserError(f"{place} cannot be used ({error.strerror}); allow access to it")
        cure = "free space" if error.errno in FULL else "make it writable"
        return UserError(
            f"{place} cannot be written ({error.strerror}), and what was there before is whole; "
            f"{cure} or name another folder, then start the same command again"
        )
    return None
