"""Before training: how the batch is made up, and what is allowed and seldom meant."""

import logging

from omegaconf import DictConfig, OmegaConf

from axialseg.machine.hardware import Hardware

log = logging.getLogger(__name__)


def shared_batch(cfg: DictConfig, world_size: int) -> str:
    """How the devices make up the batch, as a line of arithmetic."""
    batch, passes = cfg.schedule.batch_size, cfg.trainer.accumulate_grad_batches
    devices = f"{world_size} device{'s' * (world_size > 1)}"
    each = batch // (world_size * passes)
    line = f"Batch: {batch} image{'s' * (batch > 1)} = {devices} x {each} in a pass"
    return f"{line} x {passes} pass{'es' * (passes > 1)}"


def name_doubts(cfg: DictConfig) -> None:
    """Warns about settings that are allowed and seldom meant, with a cure."""
    steps, warmup = cfg.trainer.max_steps, cfg.schedule.warmup_steps
    if warmup >= steps:
        log.warning(
            "schedule.warmup_steps=%d is not below trainer.max_steps=%d, so the rate never gets to "
            "schedule.lr=%g; give schedule.warmup_steps=%d",
            *(warmup, steps, cfg.schedule.lr, steps // 20),
        )
    forward = cfg.schedule.batch_size // cfg.trainer.accumulate_grad_batches
    if forward == 1:
        log.warning(
            "Each forward pass sees one image, so batch norms take their statistics from it alone; "
            "give a larger schedule.batch_size or fewer trainer.accumulate_grad_batches",
        )
    interval = cfg.trainer.val_check_interval
    if interval is not None and interval > steps:
        log.warning(
            "trainer.val_check_interval=%d is beyond the last step, %d: the only validation is at "
            "the end; give trainer.val_check_interval=%d",
            *(interval, steps, max(steps // 5, 1)),
        )
    saving = OmegaConf.select(cfg, "callbacks.last_checkpoint.every_n_steps")
    if saving is not None and saving > steps and saving != interval:
        log.warning(
            "callbacks.last_checkpoint.every_n_steps=%d is beyond the last step, %d: there is a "
            "checkpoint every ten minutes and at the end only",
            *(saving, steps),
        )


def name_idle_gpus(cfg: DictConfig, hardware: Hardware) -> None:
    """Says if `trainer.devices=auto` leaves GPUs out, which would not share the batch evenly."""
    if hardware.accelerator != "gpu" or not isinstance(hardware.devices, int):
        return
    from torch.cuda import device_count

    visible, used = device_count(), hardware.devices
    if cfg.trainer.devices in ("auto", -1) and used < visible:
        batch, most = cfg.schedule.batch_size, visible * cfg.trainer.accumulate_grad_batches
        below = batch // most * most
        cure = f"{below} or {below + most}" if below else f"{most}"
        log.warning(
            "%d of %d GPUs work: %d cannot share schedule.batch_size=%d evenly; all of them do "
            "with schedule.batch_size=%s",
            *(used, visible, visible, batch, cure),
        )
