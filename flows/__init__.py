"""Prefect over the library: a task and a flow a stage, one flow for all, and the local stack.

Nothing is computed here. A task calls a stage of `fmbseg.pipeline.run`, is cached under the store's
content key, tried again when memory or a disk failed, and tells Prefect what it did.
"""

import os

ASK_AGAIN = {"PREFECT_CLIENT_MAX_RETRIES": "8", "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500,504"}
"""Settings of Prefect's client: a server that is away or answers 500 is asked for eight minutes."""
# Before Prefect is imported, which reads them once.
for _name, _value in ASK_AGAIN.items():
    os.environ.setdefault(_name, _value)
