"""Reads settings from the metadata of a weights file, so that nobody has to type them again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from nano_cv.config.options import Options, parse_override
from nano_cv.errors import UserError
from nano_cv.metadata import NAME, Metadata, read_metadata, shared_weights, weights_of


def settings_from_weights(options: Options, overrides: Sequence[Override]) -> list[str]:
    """Read the model, its options, its size and the data set from the file of `weights=`.

    Without `weights=`, the options and the size are read from the file of this model and data set.
    Typed settings take precedence; if they do not fit the weights, opening the weights fails.

    Returns:
        Settings to add to the command line.

    Raises:
        UserError: there are no such weights, or no config for their model or data set; the message
            says what to add.
    """
    single = [each for each in overrides if not each.is_sweep_override()]
    given = {each.key_or_group: each.value() for each in single}
    swept = {each.key_or_group: each for each in overrides if each.is_sweep_override()}
    # A sweep takes its settings from the first file. Files of other models are refused when opened.
    sweep = swept.get("weights")
    file = next(sweep.sweep_string_iterator()) if sweep else given.get("weights")
    if given.get("engine") == "triton":
        return []
    if not file:
        named = {"model", "model.name", "data", "data.name", "paths.weights", "engine"}
        if named & swept.keys() or given.get("engine", "torch") != "torch":
            return []
        return _of_default_weights(options, single, given | swept)
    added = []
    if str(file).endswith(".onnx") and options.script == "infer" and "engine" not in given:
        added.append("engine=onnx")
    if added or given.get("engine") == "onnx":
        from nano_cv.evaluation.exported import Onnx

        exported = Onnx(Path(str(file)).expanduser(), entries={}).metadata
        metadata = replace(exported, answer_options={})  # the graph has them
    else:
        metadata = read_metadata(weights_of(str(file)))

    models = options.groups["model"]
    if "model" not in given:
        # Models of the option `timm` are named after their network.
        of_timm = metadata.model not in models and metadata.network.get("name") == metadata.model
        given["model"] = "timm" if of_timm else metadata.model
        added.append(f"model={given['model']}")
        if given["model"] not in models:
            raise UserError(
                f"weights={file}: of model={metadata.model}, and there is no "
                f"model/{metadata.model}.yaml; give the config that it was trained with: "
                f"--config-dir=FOLDER, or +model=OPTION model.name={metadata.model}"
            )
    if given["model"] in models:
        config, _ = options.compose([parse_override(f"model={given['model']}")])
        # If the weights belong to a model of another name, opening them explains the mistake.
        same = metadata.model in (given.get("model.name"), config.model.name)
        if same or given["model"] == "timm":
            added += _of_network(config, metadata, given | swept)

    if "data" not in given:
        known = metadata.data in options.groups["data"] or {"data.name", "data.root"} <= {*given}
        others = ("input", "labels", "count", "parity")
        asked = any((given | swept).get(key) is not None for key in others)
        # Other precisions are measured on validation pictures, whatever `parity` compares.
        measured = (given | swept).get("precision", "float32") != "float32"
        if not known and (measured or not asked):
            raise UserError(
                f"weights={file}: trained on '{metadata.data}', which is no option of data; say "
                f"where its pictures are: +data=OPTION data.root=FOLDER data.name={metadata.data}"
                f", or give others: {'input' if options.script == 'infer' else 'parity'}=FOLDER"
            )
        if NAME.fullmatch(metadata.data) and "data.name" not in given:
            added.append(f"data={metadata.data}" if known else f'data.name="{metadata.data}"')
    return added


def _of_default_weights(
    options: Options, overrides: Sequence[Override], given: Mapping[str, Any]
) -> list[str]:
    """Return the settings in the weights file of this model and data set; none without the file."""
    config, _ = options.compose(overrides)
    path = shared_weights(config.paths.weights, config.model.name, config.data.name)
    if not path.exists():
        return []
    metadata = read_metadata(path)
    return _of_network(config, metadata, given) if metadata.model == config.model.name else []


def _of_network(config: DictConfig, metadata: Metadata, given: Mapping[str, Any]) -> list[str]:
    """Return the options and the image size of a trained model that differ from `config`."""
    settings: dict[str, Any] = {"model.image_size": metadata.image_size}
    settings |= {f"model.task.{key}": value for key, value in metadata.answer_options.items()}
    settings |= {f"model.task.network.{key}": value for key, value in metadata.network.items()}
    return [
        f"++{key}={json.dumps(value, ensure_ascii=False)}"
        for key, value in settings.items()
        if key not in given and OmegaConf.select(config, key) != value
    ]
