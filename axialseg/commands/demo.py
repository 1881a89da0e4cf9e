"""`python -m axialseg demo`: a page that shows what a model sees in your pictures."""

from axialseg.commands.command_line import compose_config, run_tool
from axialseg.commands.predict import CHOICES
from axialseg.config.check import check_choice
from axialseg.errors import UserError

USAGE = (
    "python -m axialseg demo ckpt=<run, checkpoint or published name> [port=7860] "
    "[device=auto|cpu|cuda]"
)
SUMMARY = "Shows what a model sees in your pictures, on a page of this machine; Ctrl-C ends it."
EXAMPLES = (
    "python -m axialseg demo ckpt=outputs/my_run",
    "python -m axialseg demo ckpt=outputs/my_run port=8000 device=cpu",
    "python -m axialseg demo ckpt=max_deeplab_s_os16_res641_100k_coco_train",
)


def main() -> None:
    """The command."""
    run_tool(demo, SUMMARY, USAGE, EXAMPLES)


def demo(arguments: list[str]) -> None:
    """Serves the page until Ctrl-C.

    Args:
        arguments: `key=value` of its settings.

    Raises:
        UserError: a wrong setting, the model cannot be read, or the port is in use.
    """
    cfg = compose_config("demo", arguments)
    check_choice("device", cfg.device, CHOICES["device"])
    if not 0 <= cfg.port < 1 << 16:
        raise UserError(f"port={cfg.port} must be from 0 to 65535")

    # Only now: torch takes seconds, and a wrong command line shall not wait for it.
    from axialseg.demo.answers import Answers
    from axialseg.demo.server import demo_server
    from axialseg.machine.hardware import inference_device
    from axialseg.model_zoo import load
    from axialseg.panoptic.categories import Categories

    model = load(cfg.ckpt, cfg.trust)
    if not isinstance(model.categories, Categories):
        raise UserError(f"{model.name} classifies whole images; show a model that segments")
    server = demo_server(Answers(model.to(inference_device(cfg.device))), cfg.port)
    host, port = server.server_address[:2]
    print(f"http://{host!s}:{port}    shows {model.name}; Ctrl-C ends it", flush=True)
    try:
        server.serve_forever()
    finally:
        server.server_close()
