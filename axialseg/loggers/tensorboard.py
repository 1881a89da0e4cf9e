"""TensorBoard: scalars and pictures in the folder of the run."""

from importlib.util import find_spec

from lightning.pytorch.loggers import TensorBoardLogger

from axialseg.errors import UserError


def tensorboard_logger(folder: str) -> TensorBoardLogger:
    """A logger that writes into `<folder>/tensorboard`; `tensorboard --logdir <folder>` shows it.

    A run that is resumed in its folder goes on in the same curves. Only rank 0 logs.

    Args:
        folder: folder of the run.

    Raises:
        UserError: TensorBoard is not installed.
    """
    if find_spec("tensorboard") is None:
        raise UserError("logger=tensorboard needs one more package: pip install tensorboard")
    return TensorBoardLogger(folder, name="tensorboard", version="")
