"""Train a model on a data set: `python train.py +data=flowers +model=lenet`."""

from omegaconf import DictConfig

from nano_cv.config.cli import main


@main("train")
def train(config: DictConfig) -> float:
    """Fit, keep the best epoch, test it, save its weights, and say where everything lies.

    Returns:
        What a sweep looks for the most of: the best validation metric, or minus a loss.
    """
    from nano_cv.config.processes import is_first_process, keep_memory

    keep_memory()  # before torch is loaded

    import math
    from contextlib import nullcontext
    from functools import partial

    from pytorch_lightning import seed_everything

    from nano_cv import building
    from nano_cv.evaluation.drawing import write_drawing
    from nano_cv.evaluation.engines import Torch
    from nano_cv.evaluation.evaluate import evaluate, of_test
    from nano_cv.evaluation.survey import contact_sheet, survey
    from nano_cv.evaluation.terminal import summarise
    from nano_cv.evaluation.tracking import make_logger
    from nano_cv.files import BUSY, locked
    from nano_cv.tasks import weights
    from nano_cv.training import fitting, starting
    from nano_cv.training.calibration import calibrate
    from nano_cv.training.plan import apply_plan, make_plan
    from nano_cv.training.probe import fit_probe

    folder, path = building.run_folder(), building.weights_file(config)
    # What is wrong with the settings is said before data is prepared.
    processes = starting.check_settings(config)
    seed_everything(config.seed, workers=True, verbose=False)
    first = is_first_process()  # it writes, draws and logs for all
    if not first:
        config.logger.name = "none"

    data = building.make_data(config)
    data.setup()
    plan = make_plan(config, len(data.splits["train"]), processes, len(data.splits["val"]))
    with (
        locked(folder / "checkpoints", BUSY) if first else nullcontext(),
        make_logger(config, folder, "train", data.data_hash) as logger,
    ):
        if first:
            survey(data.splits, data.data_hash, config.paths.cache)
            sheet = partial(contact_sheet, data.splits["train"])
            write_drawing("data", sheet, folder, logger.log_file)
        metadata = starting.make_metadata(config, data, run_id=logger.run_id)
        task = building.make_task(config, metadata)
        starting.weigh_classes(task, data)
        starting.hint_at_counts(task, data)
        pretrained = starting.load_pretrained(config, task)
        limit = starting.find_limit(config)
        whole = pretrained and not limit
        probe = fit_probe(task, data.splits, config.trainer.accelerator) if whole else None

        learner = starting.make_learner(config, task)
        checkpoint = folder / "checkpoints" / "last.ckpt" if config.resume else None
        trainer, keeper, epochs = fitting.make_trainer(config, folder, logger, task, data, plan)
        apply_plan(plan, data, learner, trainer, pretrained)
        fitting.fit(trainer, learner, data, checkpoint)
        if not first:
            return 0.0
        best = fitting.restore_best(learner, keeper, probe)
        stopped = False
        if fitting.sweep_folder():
            from nano_cv.training import sweep

            if fitting.has_diverged(task):
                sweep.count_as_worst(folder)
                return -math.inf
            stopped = sweep.pruned(folder)
        metrics = {f"best {task.monitor}": best}
        if probe:
            metrics[f"frozen {task.monitor}"] = probe.score
        if not limit:
            metrics |= calibrate(task, data.splits, config.coverage, config.trainer.accelerator)
        logger.log_metrics(metrics, trainer.global_step)

        own = folder / weights.WEIGHTS
        weights.save(task, own, config.half)
        weights.load(task, own)  # what is tested is what was saved
        unfit = "a run of a sweep" if fitting.sweep_folder() else limit
        path = weights.publish(own, path, task.mode, unfit)
        frozen = probe.score if probe else None
        kept = None if best == frozen else epochs.best  # none, if the frozen network is kept
        curves = partial(epochs.draw, kept, frozen, metadata.name)
        write_drawing("curves", curves, folder, logger.log_file)
        if config.test and len(data.splits["test"]) and not stopped:
            engine = Torch(task, path, config.trainer.accelerator)
            inputs = of_test(config, metadata, data.splits)
            metrics |= evaluate(config, engine, inputs, folder, logger)
        summarise(metrics, {"weights": path, "run": folder}, logger)
    if math.isnan(best):
        return -math.inf
    return best if task.mode == "max" else -best


if __name__ == "__main__":
    train()
