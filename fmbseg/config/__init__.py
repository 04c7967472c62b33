"""The typed configuration: `params.yaml` -> frozen sections.

Unknown keys and values out of range are refused, and all errors are listed at once.
"""

from fmbseg.config.loading import (
    load_config,
    override_config,
    parse_config,
)
from fmbseg.config.names import (
    BackgroundRule,
    Dense,
    DeviceName,
    HeadName,
    LossName,
    ProtocolName,
    RefineName,
    SceneLayoutName,
    Templates,
)
from fmbseg.config.sections import (
    OF_HEADS,
    AlignSection,
    BenchmarkRoot,
    ClipSection,
    Config,
    DataSection,
    DetectionSection,
    EvaluateSection,
    InferenceSection,
    LabelSection,
    MasksSection,
    RunSection,
    Section,
    Talk2DinoSection,
    TrackingSection,
)

__all__ = [
    "OF_HEADS",
    "AlignSection",
    "BackgroundRule",
    "BenchmarkRoot",
    "ClipSection",
    "Config",
    "DataSection",
    "Dense",
    "DetectionSection",
    "DeviceName",
    "EvaluateSection",
    "HeadName",
    "InferenceSection",
    "LabelSection",
    "LossName",
    "MasksSection",
    "ProtocolName",
    "RefineName",
    "RunSection",
    "SceneLayoutName",
    "Section",
    "Talk2DinoSection",
    "Templates",
    "TrackingSection",
    "load_config",
    "override_config",
    "parse_config",
]
