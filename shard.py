"""Write a set as shards: `python shard.py +data=flowers +model=lenet output=shards/flowers`."""

import shlex

from omegaconf import DictConfig, OmegaConf

from nano_cv.config.cli import main


@main("shard")
def shard(config: DictConfig) -> None:
    """Check the set, write archives and their index, and say what to type next."""
    from nano_cv import building
    from nano_cv.config.options import as_setting
    from nano_cv.data.formats.shards import refuse_existing, write_shards
    from nano_cv.data.pictures import resize_splits
    from nano_cv.data.store import located
    from nano_cv.errors import UserError, printable

    if config.output is None:
        raise UserError("output: needed; add output=FOLDER or output=s3://BUCKET/FOLDER")
    output = str(located(config.output)).rstrip("/")
    refuse_existing(output)
    options = (config.model.image_size, None, building.fit_of(config))
    splits, data_hash = resize_splits(building.open_pictures(config), *options)
    write_shards(splits, data_hash, output, int(config.shard_mb * 1e6))
    settings = ["+data=shards", f"+model={config.model.name}"]
    settings += [as_setting("data.root", output), f"data.name={config.data.name}_shards"]
    if turn := OmegaConf.select(config, "data.augment.degrees"):
        settings.append(f"data.augment.degrees={turn:g}")
    count = sum(map(len, splits.values()))
    command = shlex.join(["python", "train.py", *settings])
    print(printable(f"{output}: {count:,} pictures; to train on them, type: {command}"))


if __name__ == "__main__":
    shard()
