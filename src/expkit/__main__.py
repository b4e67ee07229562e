"""python -m expkit: a Hydra app. Config in, a run's folder out."""

import uuid
from pathlib import Path

import hydra
from omegaconf import OmegaConf

OmegaConf.register_new_resolver("short_id", lambda: uuid.uuid4().hex[:6], use_cache=True, replace=True)


@hydra.main(config_path=str(Path(__file__).parents[2] / "conf"), config_name="config", version_base="1.3")
def main(config):
    from hydra.core.hydra_config import HydraConfig
    from hydra.utils import instantiate

    from expkit.result import Result

    result = Result(Path(HydraConfig.get().runtime.output_dir), OmegaConf.to_yaml(config, resolve=True), config.logger.name)
    instantiate(config.task, _convert_="all")(result)
    result.finish()
    print(result.folder)


if __name__ == "__main__":
    main()
