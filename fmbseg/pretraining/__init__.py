"""How the tiny models were pretrained: `python -m fmbseg.pretraining.clip` and so on."""
