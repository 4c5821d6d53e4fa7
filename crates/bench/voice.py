"""Makes speech and compares what came out of the calls with it: PESQ-WB (ITU-T P.862.2) and STOI.

    voice.py make DIR                 DIR/speech.wav: 48 kHz, mono, by espeak-ng, in English and Vietnamese
    voice.py score DIR FILE [FILE…]   a line for each file
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
from pesq import pesq
from pystoi import stoi
from scipy.io import wavfile
from scipy.signal import correlate, resample_poly

TEXTS = [
    ("en", "The call should sound as if we sat at one table. Nothing is lost, and nobody else can listen."),
    ("vi", "Chào bạn, hôm nay trời đẹp quá. Mình gọi để hỏi xem chiều nay bạn có rảnh không."),
    ("en+f3", "She sells fresh fish at the harbour every Thursday, long before the shops in town have opened."),
    ("vi+f3", "Cuối tuần này cả nhà mình về quê thăm ông bà, bạn có muốn đi cùng không?"),
]


def make(folder: Path) -> None:
    parts = []
    for voice, text in TEXTS:
        out = folder / "part.wav"
        subprocess.run(["espeak-ng", "-v", voice, "-s", "150", "-w", out, text], check=True)
        rate, data = wavfile.read(out)
        out.unlink()
        up = resample_poly(data.astype(np.float64), 48_000, rate)
        parts += [up / np.abs(up).max() * 0.5 * 32_767, np.zeros(24_000)]
    wavfile.write(folder / "speech.wav", 48_000, np.concatenate(parts).astype(np.int16))


def load(path: Path) -> np.ndarray:
    rate, data = wavfile.read(path)
    data = data if data.ndim == 1 else data[:, 0]
    return resample_poly(data.astype(np.float64), 16_000, rate)


def understood(clean: np.ndarray, heard: np.ndarray) -> float:
    """Median STOI of windows of two seconds, each aligned by itself: a call's delay may change, and STOI knows no delays."""
    window, slack, scores = 32_000, 3_200, []
    for at in range(slack, len(clean) - window - slack, window // 2):
        part = clean[at : at + window]
        around = heard[at - slack : at + window + slack]
        if np.abs(part).max() < 1_000 or len(around) < window + 2 * slack:
            continue
        shift = int(np.argmax(correlate(around, part, "valid", "fft")))
        scores.append(stoi(part, around[shift : shift + window], 16_000))
    return float(np.median(scores))


def score(folder: Path, files: list[str]) -> list[tuple[float, float]]:
    clean = load(folder / "speech.wav")
    scores = []
    for name in files:
        heard = load(Path(name) if Path(name).is_absolute() else folder / name)
        # PESQ aligns small shifts by itself; the large one, of buffers and recordings, is taken out before.
        shift = int(np.argmax(correlate(heard, clean, "full", "fft"))) - (len(clean) - 1)
        part = heard[max(shift, 0) :][: len(clean)]
        part = np.pad(part, (0, len(clean) - len(part)))
        scores.append((pesq(16_000, clean, part, "wb"), understood(clean, part)))
        print(f"{Path(name).name}: PESQ-WB {scores[-1][0]:.2f} STOI {scores[-1][1]:.3f} shift {shift / 16:.0f} ms")
    return scores


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]))
    else:
        score(Path(sys.argv[2]), sys.argv[3:])
