"""Hydra's door to `expkit.sweep`: hydra/sweeper=cells, hydra/sweeper=search, hydra/launcher=rows. Hydra imports it at each start."""

from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper

from expkit import resolvers

resolvers.register()


class Given:
    """Keeps what Hydra gives a plugin."""

    def setup(self, *, hydra_context, task_function, config):
        self.context, self.job, self.config = hydra_context, task_function, config


def typed(params):
    return [f"{key}={values}" for key, values in params.items()]


class CellsSweeper(Given, Sweeper):
    """Every combination once, ever: `expkit.sweep.run`. params: {key: values} that are swept beside what the command says."""

    def __init__(self, params=None):
        self.params = params or {}

    def sweep(self, arguments):
        from expkit.sweep.run import sweep

        return sweep(self.context, self.job, self.config, [*typed(self.params), *arguments])


class SearchSweeper(Given, Sweeper):
    """The best combination, sought by what earlier ones gave: `expkit.sweep.search`. wanted: what is sought."""

    def __init__(self, params=None, **wanted):
        self.params, self.wanted = params or {}, wanted

    def sweep(self, arguments):
        from expkit.sweep.search import Aim, search

        return search(self.context, self.job, self.config, [*typed(self.params), *arguments], Aim(**self.wanted))


class RowsLauncher(Given, Launcher):
    """Cells in this process, with one resident model, in one batch where they differ in rows only: `expkit.sweep.rows`."""

    def launch(self, job_overrides, initial_job_idx):
        from expkit.sweep.rows import launch

        return launch(self.config, job_overrides)
