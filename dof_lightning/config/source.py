"""Hydra's view of the options that need no file: a config source named by `hydra.searchpath` in `conf/train.yaml`."""

from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf

from dof_lightning.config import catalog


class MadeFromNames(ConfigSource):
    """Serves `catalog.content_of` as if it were files; a file in `conf/` of the same name comes first."""

    @staticmethod
    def scheme() -> str:
        """Of `made-from-names://conf` in the search path."""
        return "made-from-names"

    def available(self) -> bool:
        """Always: there is nothing to open."""
        return True

    def is_group(self, config_path: str) -> bool:
        """Whether a folder of `conf/` is meant, `tuned` included."""
        return config_path in (*catalog.groups(), "tuned")

    def is_config(self, config_path: str) -> bool:
        """Whether an option is made from its name."""
        return self._content(config_path) is not None

    def load_config(self, config_path: str) -> ConfigResult:
        """An option's content; experiments and tuned values set keys of the whole configuration."""
        is_global = config_path.startswith(("experiment/", "tuned/"))
        content = OmegaConf.create(self._content(config_path) or {})
        header = {"package": "_global_" if is_global else None}
        return ConfigResult(provider=self.provider, path=self.full_path(), config=content, header=header)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """The options of a group, for Hydra's own messages."""
        return [] if results_filter == ObjectType.GROUP else catalog.options(config_path)

    @staticmethod
    def _content(config_path: str) -> dict[str, object] | None:
        group, _, option = config_path.removesuffix(".yaml").rpartition("/")
        return catalog.content_of(group, option)


def register() -> None:
    """Makes the source known to Hydra; called before anything is composed."""
    Plugins.instance().register(MadeFromNames)
