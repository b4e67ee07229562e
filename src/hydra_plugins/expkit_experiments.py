"""Hydra's group `experiment` is the folder experiments/, which stands beside conf/.

Hydra finds a group only as a folder of its own name inside a folder of its search path. A symbolic
link conf/experiment would do, but neither git on Windows nor an unpacked zip file has one. Hydra
imports this module at each start.
"""

from hydra._internal.core_plugins import file_config_source
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin

from expkit.config import schema


class ExperimentSource(ConfigSource):
    """experiments://FOLDER: the files of FOLDER as the options of the group `experiment`."""

    def __init__(self, provider, path):
        super().__init__(provider, path)
        self.files = file_config_source.FileConfigSource(provider, self.path)

    @staticmethod
    def scheme():
        return schema.EXPERIMENTS

    def load_config(self, config_path):
        return self.files.load_config(path_in_group(config_path))

    def is_group(self, config_path):
        inner = path_in_group(config_path)
        return not config_path or (inner is not None and self.files.is_group(inner))

    def is_config(self, config_path):
        inner = path_in_group(config_path)
        return bool(inner) and self.files.is_config(inner)

    def available(self):
        return self.files.available()

    def list(self, config_path, results_filter):
        if config_path:
            return self.files.list(path_in_group(config_path), results_filter)
        return [] if results_filter == ObjectType.CONFIG else [schema.EXPERIMENT]


def path_in_group(config_path):
    """The path inside the group `experiment`: "" for the group itself, None for other groups."""
    group, _, inner = config_path.partition("/")
    return inner if group == schema.EXPERIMENT else None


class ExperimentSearchPath(SearchPathPlugin):
    """Adds experiments/ to the search path after conf/, unless another application uses Hydra."""

    def manipulate_search_path(self, search_path):
        """Called by Hydra when it makes its search path."""
        conf = SearchPathQuery("main", str(schema.config_folder()))
        if search_path.find_first_match(conf) != -1:
            path = f"{schema.EXPERIMENTS}://{schema.experiments_folder()}"
            search_path.append("expkit", path, anchor=conf)
