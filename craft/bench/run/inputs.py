"""What a run starts from: located, hashed and identified once, before its first step."""

from dataclasses import dataclass, field
from typing import Any

from craft.bench.glue.sources import GlueData
from craft.bench.glue.splits import data_of
from craft.bench.model.locate import Backbone, locate
from craft.bench.run import record
from craft.bench.run.folder import RunFolder
from craft.bench.run.identity import identity
from craft.bench.settings.declared import plain
from craft.bench.settings.sections import RunConfig
from craft.errors import InputError


@dataclass(frozen=True)
class Start:
    """The run that another one starts from: its id and where it lies."""

    id: str
    folder: RunFolder


@dataclass(frozen=True)
class Inputs:
    """What a run starts from: its config, where its weights lie, its rows and, under `start_from`,
    the run whose adapter it takes up.

    `kept` is the run's identity (`craft.bench.run.identity`), `id` its digest and `folder` its
    place."""

    config: RunConfig
    backbone: Backbone
    data: GlueData
    start: Start | None
    kept: dict[str, Any]
    id: str
    folder: RunFolder

    def check_start(self) -> None:
        """InputError where the run that this one starts from is not finished."""
        if self.start is not None and self.start.folder.done() is None:
            task = self.config.start_from
            raise InputError(
                f"start_from={task} needs the finished run {self.start.folder.path.name}: run the "
                f"same command with task={task} and start_from=null first, without task.* and "
                f"those of train.* that the recipe has for {task}"
            )


@dataclass
class Planner:
    """The inputs of any number of runs, each folder of weights and each data set read and hashed
    once."""

    _backbones: dict[str, Backbone] = field(default_factory=dict)
    _data: dict[str, GlueData] = field(default_factory=dict)

    def inputs(self, config: RunConfig, donor: RunConfig | None = None) -> Inputs:
        """Locate a config's inputs, and those of the run that it starts from; InputError where one
        is missing."""
        start = None
        if donor is not None:
            planned = self.inputs(donor)
            start = Start(planned.id, planned.folder)
        backbone = self._backbone(config)
        data = self._rows(config)
        kept = identity(plain(config), backbone.digest, data.digest, backbone.tokenizer)
        if start is not None:
            kept["start_from.id"] = start.id
        run_id = record.digest(kept)
        folder = RunFolder.of(config, run_id, backbone.name)
        return Inputs(config, backbone, data, start, kept, run_id, folder)

    def _backbone(self, config: RunConfig) -> Backbone:
        key = repr(config.model)
        if key not in self._backbones:
            self._backbones[key] = locate(config.model)
        return self._backbones[key]

    def _rows(self, config: RunConfig) -> GlueData:
        key = repr((config.task, config.data, config.selection, config.fold))
        if key not in self._data:
            self._data[key] = data_of(config)
        return self._data[key]
