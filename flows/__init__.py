"""Prefect over the library: a task and a flow a stage, one flow for all, and the local stack.

Nothing is computed here. A task calls a stage of `fmbseg.pipeline.run`, is cached under the store's
content key, tried again when memory or a disk failed, and tells Prefect what it did.
"""
