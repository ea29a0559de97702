"""DPO on unit ids: TRL's trainer over a DeepSpeed engine."""
