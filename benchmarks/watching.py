"""What a process is started with that runs one stage and watches itself, see `growth.py`.

Called in a project's folder with the name of a stage, or `manifest`; prints one line of JSON:
seconds, peak memory in MB, most open files, threads and children at once, and marks (seconds,
pictures done) as the stage's own progress reports them.
"""

WATCH = """
import json, os, resource, sys, time
from contextlib import contextmanager
from pathlib import Path

start = time.monotonic()
most = {"files": 0, "threads": 0, "processes": 0}
tasks = {}


class Watched:
    def __init__(self, name):
        self.done, self.marks = 0, tasks.setdefault(name, [])

    def advance(self, count=1):
        self.done += count
        self.marks.append((time.monotonic() - start, self.done))
        if len(self.marks) % 16 == 1:
            look()


class Watching:
    @contextmanager
    def task(self, description, total=None):
        yield Watched(description)


def look():
    own = Path("/proc/self")
    children = (own / "task" / str(os.getpid()) / "children").read_text().split()
    counts = len(os.listdir(own / "fd")), len(os.listdir(own / "task")), len(children)
    for name, count in zip(most, counts):
        most[name] = max(most[name], count)


from fmbseg.config import load_config
from fmbseg.pipeline.run import open_stage, run_stage
from fmbseg.store.paths import Paths

config = load_config(Path("params.yaml"))
name = sys.argv[1]
stage = open_stage("detect" if name == "manifest" else name, config, Paths(), Watching())
if name == "manifest":
    stage.work.images
else:
    report = run_stage(stage)
    if sys.argv[2:] == ["idle"]:
        assert report.computed == 0, report
look()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
marks = tasks.get(name, [])
print(json.dumps({"seconds": time.monotonic() - start, "peak": peak, **most, "marks": marks}))
"""
