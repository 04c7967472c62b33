"""The stage scenes: every layout of `scenes.layouts` under data/scenes."""

from __future__ import annotations

import shutil

from fmbseg.scenes.files import CLAIM, DRAWING, write_scenes
from fmbseg.scenes.layouts import SCENE_LAYOUTS
from fmbseg.stage.stage import Stage
from fmbseg.store.atomic import remove_abandoned, replace_directory, seal, temporary_directory
from fmbseg.store.shards import MANIFEST, StageReport


class Scenes(Stage):
    """Synthetic scenes: drawn into .fmbseg/scenes/<key>, in data/scenes when all are there."""

    def run(self) -> StageReport:
        """See `Stage.run`; counts scenes."""
        config, paths = self.work.config, self.work.paths
        layouts = config.scenes.layouts
        count = sum(layout.train + layout.val for layout in layouts.values())
        if self.published:
            return StageReport(self.row.name, self.key, computed=0, taken_over=count)
        drawn = paths.drawn_scenes / self.key
        for name, layout in layouts.items():
            folder = drawn / SCENE_LAYOUTS[name].folder
            # The key says already what is drawn here; a damaged note must not stop the run.
            (folder / CLAIM).unlink(missing_ok=True)
            write_scenes(
                name,
                folder,
                train=layout.train,
                val=layout.val,
                seed=config.scenes.seed,
                progress=self.work.progress,
                processes=config.run.threads,
            )
        drawn.mkdir(parents=True, exist_ok=True)
        header = {"stage": self.row.name, "key": self.key, "images": count}
        remove_abandoned(self.place.parent)
        with temporary_directory(self.place.parent, self.place.name) as staged:
            whole = staged / self.place.name
            # A process of a killed run may still be drawing.
            shutil.copytree(drawn, whole, ignore=shutil.ignore_patterns(DRAWING))
            seal(whole, MANIFEST, header)
            replace_directory(whole, self.place)
        return StageReport(self.row.name, self.key, computed=count, taken_over=0)
