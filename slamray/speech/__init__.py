"""Speech in and out: text to audio, audio files, HuBERT features, units."""
