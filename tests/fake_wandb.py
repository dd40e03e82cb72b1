"""A wandb that remembers what a run tells it."""

import types


class FakeWandb(types.ModuleType):
    """Remembers what a run tells it."""

    def __init__(self):
        super().__init__("wandb")
        self.given, self.logged, self.summary, self.ended = {}, [], {}, []
        self.Settings = dict

    def init(self, **given):
        self.given = given
        return self

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self, exit_code):
        self.ended.append(exit_code)
