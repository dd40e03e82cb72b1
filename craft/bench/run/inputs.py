"""What a run starts from: located, hashed and identified once, before its first step."""

from dataclasses import dataclass
from typing import Any

from craft.bench.glue import sources
from craft.bench.glue.splits import data_of
from craft.bench.model.locate import Backbone, locate
from craft.bench.run import record
from craft.bench.run.folder import RunFolder
from craft.bench.run.identity import identity
from craft.bench.run.start_from import Start, finished_run
from craft.bench.settings.sections import RunConfig


@dataclass(frozen=True)
class Inputs:
    """What a run starts from: its config, where its weights lie, its rows and, under `start_from`,
    the finished run whose adapter it takes up.

    `kept` is the run's identity (`record.identity`), `id` its digest and `folder` its place."""

    config: RunConfig
    backbone: Backbone
    data: sources.GlueData
    start: Start | None
    kept: dict[str, Any]
    id: str
    folder: RunFolder

    @staticmethod
    def of(config: RunConfig, donor: RunConfig | None) -> "Inputs":
        """Locate a config's inputs; InputError where one is missing or `donor` is not finished."""
        backbone = locate(config.model)
        data = data_of(config)
        kept = identity(config, backbone.digest, data.digest, backbone.tokenizer)
        start = None if donor is None else finished_run(donor, backbone)
        if start is not None:
            kept["start_from.id"] = start.id
        run_id = record.digest(kept)
        folder = RunFolder.of(config, run_id, backbone.name)
        return Inputs(config, backbone, data, start, kept, run_id, folder)
