"""The card of a trained head, in the form that the Hugging Face hub reads."""

from __future__ import annotations

from huggingface_hub import EvalResult, ModelCardData

from fmbseg.report.content import HEAD_METHOD, Content

_METRIC = "mean_iou"
_FREE = ("annotation-free",)
_LABELS = {
    True: "It was trained on\npseudo labels that CLIP and SAM made; no annotation was read.",
    False: "It was trained on\nlabels that people have made or corrected: see below.",
}
_USE = """\
```python
import fmbseg

segmenter = fmbseg.load_segmenter("data/align")
result = segmenter.predict("photo.jpg", classes=["dog", "grass", "sky"])
result.label_map  # [H, W] int64, indices into result.classes
```
"""


def card(content: Content) -> str:
    """Markdown with a front matter: data, words, figures, licence.

    Args:
        content: of the head's report; it must have results of the trained head.
    """
    data = ModelCardData(
        model_name="fmbseg alignment head",
        license="apache-2.0",
        library_name="fmbseg",
        pipeline_tag="image-segmentation",
        tags=["semantic-segmentation", "open-vocabulary", *_FREE[: content.free], "fmbseg"],
        eval_results=[
            EvalResult(
                task_type="image-segmentation",
                dataset_type=each.name,
                dataset_name=f"{each.name}, {each.images} pictures",
                metric_type=_METRIC,
                metric_value=round(each.miou[HEAD_METHOD], 2),
            )
            for each in content.benchmarks
            if HEAD_METHOD in each.miou
        ],
    )
    facts = "\n".join(f"- {name}: {value}" for name, value in content.facts)
    notes = "\n".join(f"- {note}" for note in content.notes)
    return f"""---
{data.to_yaml().strip()}
---

# {content.title}

An alignment head: it maps the patches of a frozen image encoder into CLIP's text space, so that a
picture is segmented into any classes by one pass through the encoder. {_LABELS[content.free]}

## Use

{_USE}
## Made with

{facts}

## Figures

{_markdown(content)}

{notes}
"""


def _markdown(content: Content) -> str:
    heads = content.measured.heads
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    lines += [f"| {' | '.join(cell or '-' for cell in row)} |" for row in content.measured.rows]
    return "\n".join(lines)
