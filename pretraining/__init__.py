"""How the tiny models were pretrained: `python -m pretraining.clip`, `.sam` and `.encoder`."""
