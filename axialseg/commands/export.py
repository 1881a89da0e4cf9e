"""`python -m axialseg export`: a trained network for ONNX, torch.export or safetensors."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from axialseg.commands.command_line import compose_config, run_tool
from axialseg.config.check import check_choice
from axialseg.errors import UserError

if TYPE_CHECKING:
    from axialseg.inference.loaded_model import LoadedModel

USAGE = (
    "python -m axialseg export ckpt=<run, checkpoint or published name> "
    "format=onnx|torch|safetensors out=<file> [postprocess=true]"
)
SUMMARY = "Writes a network for other runtimes, with its classes and settings inside."
EXAMPLES = (
    "python -m axialseg export ckpt=outputs/my_run format=onnx out=model.onnx postprocess=true",
    "python -m axialseg export ckpt=outputs/my_run format=torch out=model.pt2",
    "python -m axialseg export ckpt=outputs/my_run format=safetensors out=model.safetensors",
)
ENDINGS = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}


def main() -> None:
    """The command."""
    run_tool(export, SUMMARY, USAGE, EXAMPLES)


def export(arguments: list[str]) -> None:
    """Writes the network as one file.

    Args:
        arguments: `key=value` of its settings.

    Raises:
        UserError: a wrong setting, or the model cannot be read or the file not written.
    """
    cfg = compose_config("export", arguments)
    check_choice("format", cfg.format, ENDINGS)
    if not cfg.out.endswith(ENDINGS[cfg.format]):
        raise UserError(f"out={cfg.out} must end with {ENDINGS[cfg.format]}")
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if cfg.format == "onnx" and missing:
        raise UserError(f"format=onnx needs {missing[0]}: pip install 'axialseg[export]'")
    if cfg.postprocess and cfg.format == "safetensors":
        raise UserError("postprocess=true needs a graph: format=onnx or format=torch")

    # Only now: torch takes seconds, and a wrong command line shall not wait for it.
    from axialseg.checkpoints.own_weights import STEPS, write_safetensors
    from axialseg.inference.export import export_graph, write_onnx, write_torch
    from axialseg.inference.exported_net import is_exported
    from axialseg.machine.whole_file import whole_file
    from axialseg.model_zoo import load

    if is_exported(cfg.ckpt):
        raise UserError(f"{cfg.ckpt} is exported already; give the run or its checkpoint")
    model = load(cfg.ckpt, cfg.trust)
    out = Path(cfg.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    if cfg.format == "safetensors":
        write_safetensors(model.net.state_dict(), out, {"format": "pt", STEPS: str(model.step)})
        print(f"written: {out}")
        return
    if cfg.postprocess and model.postprocess is None:
        raise UserError(f"{model.name} classifies whole images; leave out postprocess=true")
    stride = getattr(model.transform, "stride", 32)
    graph = export_graph(model.net, stride, model.postprocess if cfg.postprocess else None)
    facts = _facts(model, stride, graph.outputs)
    with whole_file(out) as draft:
        (write_onnx if cfg.format == "onnx" else write_torch)(graph, draft, facts)
    outputs = ", ".join(graph.outputs)
    print(f"written: {out}, image [B, 3, {stride}k + 1, {stride}k + 1] -> {outputs}")


def _facts(model: "LoadedModel", stride: int, outputs: tuple[str, ...]) -> dict[str, Any]:
    """What one must know to use the graph, and to evaluate it."""
    from dataclasses import asdict

    from axialseg.checkpoints.model_folder import without_places
    from axialseg.inference.export import LONGEST_SIDE, MOST_IMAGES

    backbone: Any = model.net.get_submodule("backbone")
    longest = (LONGEST_SIDE - 1) // stride * stride + 1
    return {
        "name": model.name,
        "outputs": outputs,
        "classes": asdict(model.categories),
        "image": {
            "channels": "RGB",
            "range": [0, 255],
            "normalization": "in the graph",
            "padding": list(backbone.image_mean),
            "stride": stride,
        },
        "limits": {"images": [1, MOST_IMAGES], "sides": [2 * stride + 1, longest]},
        "step": model.step,
        **without_places(model.config),
    }
