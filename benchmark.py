"""Measure an exported model in a real Triton: `python benchmark.py +data=flowers +model=lenet`."""

from omegaconf import DictConfig

from nano_cv.config.cli import main


@main("benchmark")
def benchmark(config: DictConfig) -> None:
    """Serve the model under every setting at once, load them in turn, write the table."""
    import tempfile
    from contextlib import ExitStack
    from pathlib import Path

    import grpc

    from benchmarks.serving import comparison, processes, rounds, settings, table
    from nano_cv import building
    from nano_cv.evaluation.exported import Onnx
    from nano_cv.evaluation.opening import find_export
    from nano_cv.serving import triton
    from nano_cv.serving.process import running

    folder = building.run_folder()
    model = Path(config.paths.models, f"{config.model.name}_{config.data.name}")
    file, float32 = find_export(model), find_export(model, "float32")
    exported = Onnx(file)
    options = (config.instances, config.delays_us, config.threads, config.batches)
    grid = list(settings.grid(exported.precision, *options))
    default = settings.default("float32", config.triton)
    metadata = exported.metadata
    picture = None  # a generator takes none, and so has no other design to be compared with
    if metadata.task != "generation":
        picture = comparison.pick(building.open_pictures(config)["test"].files)

    with tempfile.TemporaryDirectory() as temporary:
        repository = Path(temporary, "measured")
        models = settings.lay_out(model, file, grid, repository)
        if default not in grid:
            models += settings.lay_out(model, float32, [default], repository)
        prototype = config.prototype and picture is not None
        if prototype:
            models += settings.lay_out_prototype(model, repository)
        with (
            running(repository, models, folder / "triton.log") as port,
            grpc.insecure_channel(f"{triton.LOOPBACK}:{port}") as channel,
        ):
            load = (config.concurrency, config.seconds)
            bench = comparison.Bench(channel, metadata, picture, *load)
            least, most = config.min_rounds, max(config.min_rounds, config.max_rounds)
            measured = rounds.take_turns(bench.settings(grid), least, most, "Settings")
            best = settings.best(measured, config.p99_limit_ms)
            with ExitStack() as servers:
                served = ten_lines = None
                if picture:
                    chosen = Path(temporary, "chosen")
                    settings.lay_out(model, file, [best], chosen)
                    settings.lay_out_twin(model, file, best, chosen)
                    door, rpc = servers.enter_context(processes.front_door(chosen, folder))
                    address = f"{triton.LOOPBACK}:{rpc}"
                    served = door, servers.enter_context(grpc.insecure_channel(address))
                if prototype:
                    ten_lines = servers.enter_context(processes.ten_lines(float32, folder))
                rows = bench.compared(best, default, float32, prototype, served, ten_lines)
                compared = rounds.take_turns(rows, least, most, "Side by side")

    print(table.write(folder, measured, compared))
    if config.write:
        settings.write_best(model, best)
        print(f"{model / 'config.pbtxt'}: {best.words}")
    print(f"run  {folder}")


if __name__ == "__main__":
    benchmark()
