"""A real call between two processes, through a real sound server: speech into one's microphone, out of the other's speaker.

    call.py BIN DIR [--check]

BIN is the folder with secureconnect-server and secureconnect-cli, DIR an empty folder. Needs PulseAudio, espeak-ng and the
packages of voice.py. Prints how long it takes from the mouth to the ear, from the taking of the call to the first sound, what
the speech is worth when it arrives, and what the two processes cost. With --check it fails when that is not what a call has to be
(bounds with room for a busy machine and unoptimised programs).
"""

import json
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
from scipy.io import wavfile
from scipy.signal import correlate

import voice

RATE = 48_000


class Sound:
    """A PulseAudio of our own with two null sinks: `spk` is the speaker, what is played into `micsink` comes out of `mic`."""

    def __init__(self, folder: Path) -> None:
        self.env = {**os.environ, "PULSE_SERVER": f"unix:{folder}/pulse", "HOME": str(folder)}
        config = folder / "pulse.pa"
        config.write_text(
            f"load-module module-native-protocol-unix socket={folder}/pulse auth-anonymous=1\n"
            "load-module module-null-sink sink_name=spk rate=48000 channels=1\n"
            "load-module module-null-sink sink_name=micsink rate=48000 channels=1\n"
            "load-module module-remap-source source_name=mic master=micsink.monitor\n"
            "set-default-sink spk\nset-default-source mic\n"
        )
        command = ["pulseaudio", "-n", "-F", str(config), "--exit-idle-time=-1", "--daemonize=no", "--use-pid-file=no"]
        self.process = subprocess.Popen(command, env=self.env, stderr=subprocess.DEVNULL)
        for _ in range(100):
            if subprocess.run(["pactl", "info"], env=self.env, capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
        raise SystemExit("PulseAudio does not start")

    def play(self, path: Path) -> subprocess.Popen:
        return subprocess.Popen(["paplay", "--device=micsink", "--latency-msec=20", str(path)], env=self.env)


class Tap:
    """Records a source; knows when its first sample was, on this machine's clock."""

    def __init__(self, sound: Sound, source: str) -> None:
        command = ["parec", f"--device={source}", "--raw", f"--rate={RATE}", "--channels=1", "--format=s16le", "--latency-msec=5"]
        self.process = subprocess.Popen(command, env=sound.env, stdout=subprocess.PIPE)
        self.data, self.start = bytearray(), float("inf")
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        while chunk := os.read(self.process.stdout.fileno(), 4096):
            self.data += chunk
            # The chunk that was delayed least says it best.
            self.start = min(self.start, time.monotonic() - len(self.data) / 2 / RATE)

    def stop(self) -> np.ndarray:
        self.process.terminate()
        self.thread.join()
        return np.frombuffer(bytes(self.data), dtype=np.int16).astype(np.float64)


def delay(mouth: np.ndarray, ear: np.ndarray) -> float:
    """Milliseconds by which `ear` is later than `mouth`."""
    return (int(np.argmax(correlate(ear, mouth, "full", "fft"))) - (len(mouth) - 1)) * 1000 / RATE


def cut(x: np.ndarray, start: float, begin: float, seconds: float) -> np.ndarray:
    at = int((begin - start) * RATE)
    return x[max(at, 0) : at + int(seconds * RATE)]


def main() -> None:
    binaries, folder = Path(sys.argv[1]), Path(sys.argv[2])
    voice.make(folder)
    _, speech = wavfile.read(folder / "speech.wav")
    seconds = len(speech) / RATE
    sound = Sound(folder)
    env = {**sound.env, "SECURECONNECT_PASSPHRASE": "correct horse", "SECURECONNECT_PASSWORD": "a long enough password"}
    server = subprocess.Popen(
        [binaries / "secureconnect-server", "serve", "--data", folder / "server", "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**env, "SECURECONNECT_SERVER_TURN_PORT": "0", "SECURECONNECT_SERVER_ROOMS_PORT": "0"},
    )
    url = next(line.split()[-1] for line in server.stdout if "listening on" in line)

    def cli(who: str, *args: object) -> subprocess.Popen:
        command = [binaries / "secureconnect-cli", "--json", "--server", url, "--profile", folder / who, *map(str, args)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)

    for who in ("lan", "minh"):
        assert cli(who, "register", who).wait() == 0

    answering = cli("minh", "answer", "--audio-file", "none", "--duration", 2 * seconds.__ceil__() + 6)
    # Somebody speaks already while it rings, so that the first sound is there to be heard as soon as it can be.
    ear, mouth = Tap(sound, "spk.monitor"), Tap(sound, "mic")
    speaking = sound.play(folder / "speech.wav")
    calling = cli("lan", "call", "minh", "--record", "none")
    taken = active = None
    for line in answering.stdout:
        phase = json.loads(line)["phase"]
        if phase == "incoming":
            taken = time.monotonic()
        if phase == "active":
            active = time.monotonic()
            break
    speaking.wait()
    time.sleep(0.5)
    begun = time.monotonic()
    sound.play(folder / "speech.wav").wait()
    time.sleep(1.0)
    last = json.loads(answering.communicate()[0].strip().splitlines()[-1])
    calling.wait()
    heard, said = ear.stop(), mouth.stop()
    loud = np.flatnonzero(np.abs(heard) > 300)
    first = ear.start + loud[0] / RATE
    print(f"taken to active {1000 * (active - taken):.0f} ms, to the first sound {1000 * (first - taken):.0f} ms")
    steps = [
        delay(cut(said, mouth.start, begun + i, 2.0), cut(heard, ear.start, begun + i, 2.5))
        for i in range(1, int(seconds) - 2)
        if np.abs(cut(said, mouth.start, begun + i, 2.0)).max() > 3_000
    ]
    print(f"mouth to ear: median {np.median(steps):.0f} ms, 95th percentile {np.percentile(steps, 95):.0f} ms of {len(steps)} windows")
    wavfile.write(folder / "heard.wav", RATE, cut(heard, ear.start, begun, seconds + 1.5).astype(np.int16))
    worth, clear = voice.score(folder, ["heard.wav"])[0]
    use = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"quality as the app tells it: {json.dumps(last['quality'])}")
    print(f"processor of all programs of this run together: {use.ru_utime + use.ru_stime:.1f} s")
    for process in (server, sound.process):
        process.terminate()
    if "--check" in sys.argv:
        assert worth >= 3.0 and clear >= 0.9, "the speech is not what it was"
        assert np.median(steps) <= 150 and first - taken <= 1.5, "the sound comes late"


if __name__ == "__main__":
    main()
