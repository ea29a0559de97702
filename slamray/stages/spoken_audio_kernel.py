"""Kernel that speaks a shard of documents and stores their audio and phones in one file."""

from __future__ import annotations

from slamray.config.speech import TtsSettings
from slamray.speech.audio import RATE_HZ
from slamray.stage.records import to_table
from slamray.stages.shards import Shard, ShardDone
from slamray.stages.speech_kernels import Speak
from slamray.stages.spoken_audio import SpokenDocument, folder_of, recordings_file


class Record:
    """Kernel: documents that cannot be spoken are left out."""

    def __init__(self, tts: TtsSettings) -> None:
        self._speak = Speak(tts)

    def __call__(self, shard: Shard) -> ShardDone:
        sounds = [sound for sound in self._speak(shard).sounds if not sound.reason]
        documents = [SpokenDocument(sound.utterance_id, sound.pcm, sound.phones) for sound in sounds]
        folder_of(shard).write_table(recordings_file(shard.number), to_table(documents, SpokenDocument))
        return ShardDone(shard.number, sum(len(document.audio) for document in documents) / RATE_HZ)
