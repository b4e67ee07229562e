"""Hydra's door to `expkit.sweep`: hydra/sweeper=cells, hydra/sweeper=search, hydra/launcher=rows; and to `expkit.results.claims`.

Hydra imports it at each start.
"""

from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper

from expkit.runs import resolvers

resolvers.register_resolvers()


class Given:
    """Keeps what Hydra gives a plugin."""

    def setup(self, *, hydra_context, task_function, config):
        self.context, self.job, self.config = hydra_context, task_function, config


class Named(Given, Sweeper):
    """Keeps what is swept beside what the command says, params: {key: values}. The folder is named by the command: -m has done so, but
    an experiment may say by itself that it sweeps."""

    def __init__(self, params=None, **wanted):
        self.params, self.wanted = params or {}, wanted

    def setup(self, *, config, **given):
        from omegaconf import OmegaConf, read_write

        from expkit.config.command_line import CommandLine
        from expkit.runs.job import overrides_of, sources_of
        from expkit.sweep import names

        super().setup(config=config, **given)
        hydra, told = overrides_of(config)
        line = CommandLine.of([*sources_of(config), *hydra, *told])
        folder = names.sweep_folder(line)
        placed = names.folder_override(folder, line)
        if placed and "${now:" in OmegaConf.to_container(config.hydra.sweep)["dir"]:
            with read_write(config):
                config.hydra.sweep.dir = str(folder)
                config.hydra.overrides.hydra.extend(placed)  # from which each cell is composed

    def swept(self, arguments):
        """What the experiment sweeps, and what is told; of a key in both, what is told."""
        told = {argument.partition("=")[0] for argument in arguments}
        return [*(f"{key}={values}" for key, values in self.params.items() if key not in told), *arguments]


class ClaimRunFolder(Callback):
    """Claims the folder of a run before Hydra makes it and before anything is loaded."""

    def on_run_start(self, config, **kwargs):
        from hydra.core.hydra_config import HydraConfig

        from expkit.results import claims

        HydraConfig.instance().set_config(config)  # which the name of the folder speaks of
        chosen = config.hydra.runtime.choices
        try:
            claims.hold_folder(
                config.hydra.run.dir,
                claims.written_names(chosen.task, chosen.logger),
                not claims.is_follower_process(),
            )
        except Exception as error:
            raise claims.NotClaimed(error) from None


class CellsSweeper(Named):
    """Every combination once, ever: `expkit.sweep.sweeper`."""

    def sweep(self, arguments):
        from expkit.sweep.sweeper import run_sweep

        return run_sweep(self.context, self.job, self.config, self.swept(arguments))


class SearchSweeper(Named):
    """The best combination, sought by what earlier ones gave: `expkit.sweep.search`. wanted: what is sought."""

    def sweep(self, arguments):
        from expkit.sweep.search import run_search
        from expkit.sweep.trials import SearchObjective

        return run_search(
            self.context, self.job, self.config, self.swept(arguments), SearchObjective(**self.wanted)
        )


class RowsLauncher(Given, Launcher):
    """Cells in this process, with one resident model, in one batch where they differ in rows only: `expkit.sweep.batch_launcher`."""

    def launch(self, job_overrides, initial_job_idx):
        from expkit.sweep.batch_launcher import launch_cells

        return launch_cells(self.config, job_overrides)
