"""The page answers every key of deeplab2's configurations, with keys that exist here."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from axialseg.commands.evaluate import register_saved_run
from axialseg.config.schema import conf_dir, register_schemas

PAGE = (Path(__file__).parents[1] / "docs/coming_from_deeplab2.md").read_text()
ROWS = (
    *("cityscapes/axial_swidernet_1_1_1", "coco/panoptic_deeplab_resnet50"),
    *("coco/max_deeplab_s_641", "coco/kmax_axial_r50"),
)
# All fields that deeplab2's configurations of our rows set: configs/cityscapes/{axial_deeplab,
# panoptic_deeplab,kmax_deeplab}, configs/coco/{panoptic_deeplab,max_deeplab,kmax_deeplab}.
FIELDS = (
    "experiment_name model_options initial_checkpoint backbone name output_stride "
    "stem_width_multiplier backbone_width_multiplier backbone_layer_multiplier "
    "drop_path_keep_prob drop_path_schedule decoder feature_key decoder_channels aspp_channels "
    "aspp_use_only_1x1_proj_conv atrous_rates panoptic_deeplab low_level channels_project "
    "instance low_level_override instance_decoder_override center_head output_channels "
    "head_channels regression_head semantic_head max_deeplab pixel_space_head "
    "auxiliary_low_level auxiliary_semantic_head instance_discrimination_sample_k "
    "instance_discrimination_sample_temperature semantic_sample_k semantic_sample_temperature "
    "trainer_options save_checkpoints_steps save_summaries_steps steps_per_loop loss_options "
    "semantic_loss weight top_k_percent center_loss regression_loss pq_style_loss "
    "mask_id_cross_entropy_loss instance_discrimination_loss solver_options base_learning_rate "
    "training_number_of_steps warmup_steps backbone_learning_rate_multiplier optimizer "
    "adamw_weight_decay train_dataset_options dataset file_pattern batch_size crop_size "
    "min_resize_value max_resize_value augmentations min_scale_factor max_scale_factor "
    "scale_factor_step_size autoaugment_policy_name panoptic_copy_paste "
    "panoptic_copy_paste_scale panoptic_copy_paste_thing_option panoptic_copy_paste_stuff_option "
    "panoptic_copy_paste_void_option increase_small_instance_weights small_instance_weight "
    "thing_id_mask_annotations eval_dataset_options evaluator_options continuous_eval_timeout "
    "stuff_area_limit thing_area_limit center_score_threshold nms_kernel save_predictions "
    "save_raw_predictions merge_semantic_and_instance_with_tf_op "
    "transformer_class_confidence_threshold pixel_confidence_threshold "
    "transformer_post_processing maskwise_postprocessing "
    "transformer_class_confidence_threshold_thing transformer_class_confidence_threshold_stuff "
    "overlapping_threshold reorder_class_weight reorder_mask_weight keep_k_centers eval_scales "
    "add_flipped_images "
)


@pytest.fixture(scope="module")
def configs() -> Iterator[list[DictConfig]]:
    register_schemas()
    register_saved_run([])
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        rows = [compose("train", [f"experiments={row}"]) for row in ROWS]
        yield [*rows, compose("evaluate", ["ckpt=x"])]


@pytest.mark.parametrize("field", FIELDS.split())
def test_each_field_is_answered(field: str) -> None:
    headings = [line for line in PAGE.splitlines() if line.startswith("#")]
    left = [cell[1] for line in PAGE.splitlines() if len(cell := line.split("|")) > 2]
    words = {word for text in [*headings, *left] for word in re.findall(r"\w+", text)}
    assert field in words


def test_our_keys_exist(configs: list[DictConfig]) -> None:
    groups = "model|data|schedule|trainer|callbacks"
    right = " ".join(line.partition("|")[2].partition("|")[2] for line in PAGE.splitlines())
    keys = set(re.findall(rf"`((?:{groups})\.[\w.]+)", right))
    assert len(keys) > 50
    for key in keys:
        assert any(is_there(cfg, key) for cfg in configs), key


def is_there(cfg: DictConfig, key: str) -> bool:
    """Whether a key is in a config, or is an argument that its part takes."""
    path, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, path)
    if not isinstance(node, DictConfig):
        return False
    if name in node or "_target_" not in node:
        return name in node
    return name in inspect.signature(get_object(node._target_)).parameters
