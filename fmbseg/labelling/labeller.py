"""Stage 1 of single pictures in memory.

labeller = Labeller(["dog", "grass"])
found = labeller.label("photo.jpg")
found.label  # [H, W] uint8, indices into labeller.names, 255 unlabelled
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fmbseg.config import Config, parse_config
from fmbseg.data.vocabulary import Vocabulary, vocabulary_from_names
from fmbseg.inference.segmenter import ImageInput, as_image
from fmbseg.labelling.shared_words import shared_words, shared_words_line
from fmbseg.machine.device import DeviceChoice, find_device
from fmbseg.presets import preset
from fmbseg.pseudo.detection import looked_for
from fmbseg.pseudo.encodings import ImageEncoder
from fmbseg.pseudo.pipeline import ImageLabels, label_image

_log = logging.getLogger(__name__)


class Labeller:
    """Labels pictures with the classes that it is given, from words alone.

    Args:
        classes: names as `--classes` takes them (`dog|puppy`, `-wolf`; one alone is set against a
            rest), or a vocabulary.
        config: sections clip, detection, query, sam, masks and label are read; None: a preset.
        device: where the models run; None: by what the machine has, and the process stays as it is.
        preset_name: the parameters where `config` is None: tiny, base or paper.

    Attributes:
        vocabulary: the classes.
        config: the parameters.

    Raises:
        ConfigError: there is no such preset.
        VocabularyError: the names are no class list.
        WeightsError: the weights of a model are missing or damaged.
    """

    def __init__(
        self,
        classes: Sequence[str] | Vocabulary,
        config: Config | None = None,
        device: DeviceChoice | None = None,
        preset_name: str = "tiny",
    ) -> None:
        self.vocabulary = (
            classes if isinstance(classes, Vocabulary) else vocabulary_from_names(classes)
        )
        self.config = parse_config(preset(preset_name)) if config is None else config
        run = self.config.run
        chosen = find_device(run.device, run.dtype) if device is None else device
        self._encoder = ImageEncoder(self.config, None, chosen)
        templates = self.vocabulary.templates or self.config.clip.templates
        text = self._encoder.clip.model.text_embeddings(self.vocabulary.widened, templates)
        self._text = looked_for(text, self.config.detection)
        if shared := shared_words(self.vocabulary, text, self._text):
            _log.warning("%s (`fmbseg words check`)", shared_words_line(shared))

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in index order."""
        return self.vocabulary.names

    def label(self, image: ImageInput) -> ImageLabels:
        """Label one picture.

        Args:
            image: as `Segmenter.predict` takes it.

        Returns:
            Detections, points, masks and their classes, and the label map.

        Raises:
            DataError: the picture cannot be read.
        """
        encodings = self._encoder.encode(as_image(image))
        return label_image(encodings, self._encoder.sam.model, self._text, self.config)
