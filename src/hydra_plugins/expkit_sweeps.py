"""Hydra plugins of expkit. Hydra imports this module at each start.

hydra/sweeper=cells, hydra/sweeper=search and hydra/launcher=rows lead to `expkit.sweep`; the
callback that claims the folder of a run leads to `expkit.results.claims`. Their own modules are
imported only when they are used.
"""

from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper

from expkit.runs import resolvers

resolvers.register_resolvers()


class PluginSetup:
    """Keeps the context, the task function and the configuration that Hydra passes to a plugin."""

    def setup(self, *, hydra_context, task_function, config):
        """Called by Hydra before the plugin is used."""
        self.context, self.job, self.config = hydra_context, task_function, config


class NamedFolderSweeper(PluginSetup, Sweeper):
    """A sweeper whose folder is named by the command, and whose axes an experiment may give.

    `-m` names the folder before Hydra starts. An experiment may sweep without `-m`, so `setup`
    names the folder if that has not happened.

    Args:
        params: {key: values} that the experiment sweeps, beside the arguments of the command.
        **wanted: further settings of the sweeper.
    """

    def __init__(self, params=None, **wanted):
        self.params, self.wanted = params or {}, wanted

    def setup(self, *, config, **given):
        """Called by Hydra before `sweep`. Sets hydra.sweep.dir, unless it is set already."""
        from omegaconf import OmegaConf, read_write

        from expkit.config.command_line import CommandLine
        from expkit.runs.job import overrides_of, sources_of
        from expkit.sweep import names

        super().setup(config=config, **given)
        hydra_overrides, task_overrides = overrides_of(config)
        line = CommandLine.of([*sources_of(config), *hydra_overrides, *task_overrides])
        folder = names.sweep_folder(line)
        folder_arguments = names.folder_override(folder, line)
        if folder_arguments and "${now:" in OmegaConf.to_container(config.hydra.sweep)["dir"]:
            with read_write(config):
                config.hydra.sweep.dir = str(folder)
                # Each cell is composed from these overrides
                config.hydra.overrides.hydra.extend(folder_arguments)

    def swept(self, arguments):
        """The axes of the experiment and the arguments of the command.

        A key in both has the values of the command.
        """
        command_keys = {argument.partition("=")[0] for argument in arguments}
        from_experiment = [
            f"{key}={values}" for key, values in self.params.items() if key not in command_keys
        ]
        return [*from_experiment, *arguments]


class ClaimRunFolder(Callback):
    """The callback that claims the folder of a run before Hydra makes it and anything is loaded."""

    def on_run_start(self, config, **kwargs):
        """Called by Hydra before a run.

        Raises:
            NotClaimed: if the folder cannot be claimed; its `error` says why.
        """
        from hydra.core.hydra_config import HydraConfig

        from expkit.results import claims

        HydraConfig.instance().set_config(config)  # the name of the folder refers to it
        choices = config.hydra.runtime.choices
        try:
            claims.hold_folder(
                config.hydra.run.dir,
                claims.written_names(choices.task, choices.logger),
                not claims.is_follower_process(),
            )
        except Exception as error:
            raise claims.NotClaimed(error) from None


class CellsSweeper(NamedFolderSweeper):
    """hydra/sweeper=cells: run every combination of values once (see `expkit.sweep.sweeper`).

    Args:
        params: {key: values} that an experiment sweeps; None for none.
    """

    def sweep(self, arguments):
        """Run the cells of these arguments that are missing."""
        from expkit.sweep.sweeper import run_sweep

        return run_sweep(self.context, self.job, self.config, self.swept(arguments))


class SearchSweeper(NamedFolderSweeper):
    """hydra/sweeper=search: look for the best combination of values (see `expkit.sweep.search`).

    Args:
        params: {key: values} that an experiment searches; None for none.
        **wanted: the fields of `expkit.sweep.trials.SearchObjective`.
    """

    def sweep(self, arguments):
        """Run the trials of a search over these arguments."""
        from expkit.sweep.search import run_search
        from expkit.sweep.trials import SearchObjective

        objective = SearchObjective(**self.wanted)
        return run_search(self.context, self.job, self.config, self.swept(arguments), objective)


class RowsLauncher(PluginSetup, Launcher):
    """hydra/launcher=rows: run cells in this process (see `expkit.sweep.batch_launcher`).

    The model stays loaded. Cells that differ only in values that can vary within a batch share one
    batch.
    """

    def launch(self, job_overrides, initial_job_idx):
        """Run the cells of these arguments.

        Args:
            job_overrides: the arguments of each cell.
            initial_job_idx: the number of the first cell, which is not used.
        """
        from expkit.sweep.batch_launcher import launch_cells

        return launch_cells(self.config, job_overrides)
