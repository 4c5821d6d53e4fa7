"""A device changes its address in the middle of a call: how long nothing is heard. Needs root (network namespaces).

    roam.py BIN DIR [--check]

Lan is in a namespace of her own behind a pair of virtual interfaces, Minh and the server are outside. Lan plays a tone; three
seconds into the call her address is another one. What Minh hears is recorded, and the longest silence in it is printed.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from scipy.io import wavfile

RATE = 48_000
SPACE = "secureconnect-roam"


def sh(*command: str) -> None:
    subprocess.run(command, check=True)


def inside(*command: object) -> list[str]:
    return ["ip", "netns", "exec", SPACE, *map(str, command)]


def main() -> None:
    binaries, folder = Path(sys.argv[1]), Path(sys.argv[2])
    # What a run that was killed left behind.
    for left in (["netns", "del", SPACE], ["link", "del", "sc-out"]):
        subprocess.run(["ip", *left], stderr=subprocess.DEVNULL, check=False)
    sh("ip", "netns", "add", SPACE)
    sh("ip", "link", "add", "sc-out", "type", "veth", "peer", "name", "sc-in", "netns", SPACE)
    sh("ip", "addr", "add", "10.91.0.1/24", "dev", "sc-out")
    sh("ip", "link", "set", "sc-out", "up")
    for command in (["link", "set", "lo", "up"], ["addr", "add", "10.91.0.2/24", "dev", "sc-in"], ["link", "set", "sc-in", "up"]):
        sh(*inside("ip", *command))
    env = {**os.environ, "SECURECONNECT_PASSPHRASE": "correct horse", "SECURECONNECT_PASSWORD": "a long enough password"}
    server = subprocess.Popen(
        [binaries / "secureconnect-server", "serve", "--data", folder / "server", "--listen", "10.91.0.1:0"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**env, "SECURECONNECT_SERVER_TURN_PORT": "0", "SECURECONNECT_SERVER_ROOMS_PORT": "0"},
    )
    try:
        url = next(line.split()[-1] for line in server.stdout if "listening on" in line)

        def cli(who: str, *args: object) -> list[object]:
            return [binaries / "secureconnect-cli", "--json", "--server", url, "--profile", folder / who, *args]

        subprocess.run(cli("minh", "register", "minh"), env=env, check=True)
        subprocess.run(inside(*cli("lan", "register", "lan")), env=env, check=True)
        n = np.arange(40 * RATE)
        wavfile.write(folder / "tone.wav", RATE, (12_000 * np.sin(n * 2 * np.pi * 440 / RATE)).astype(np.int16))
        heard = folder / "heard"
        heard.mkdir()
        minh = subprocess.Popen(cli("minh", "answer", "--audio-file", "none", "--record", heard), stdout=subprocess.PIPE, text=True, env=env)
        time.sleep(1)
        lan = subprocess.Popen(
            inside(*cli("lan", "call", "minh", "--audio-file", folder / "tone.wav", "--record", "none", "--duration", 14)),
            stdout=subprocess.PIPE, text=True, env=env,
        )
        for line in lan.stdout:
            if json.loads(line)["phase"] == "active":
                break
        time.sleep(3)
        # Both at once, as when a telephone leaves the house: the new one is there, the old one is not.
        sh(*inside("sh", "-c", "ip addr del 10.91.0.2/24 dev sc-in; ip addr add 10.91.0.3/24 dev sc-in"))
        last = json.loads(lan.communicate()[0].strip().splitlines()[-1])
        minh.communicate()
        _, x = wavfile.read(heard / "received.wav")
        loud = np.abs(x[: len(x) // 480 * 480].reshape(-1, 480)).max(axis=1) > 1_000
        on = np.flatnonzero(loud)
        gaps = np.diff(on)
        silence = int(gaps.max()) * 10 if len(gaps) else 0
        after = len(on) * 10
        print(f"address change: {silence} ms without sound, {after / 1000:.1f} s heard, the call ended as {last['cause']} after {last['seconds']} s")
        if "--check" in sys.argv:
            assert last["cause"] == "hung_up" and after > 8_000, "the call did not survive"
            assert silence <= 3_000, "the sound came back late"
    finally:
        server.terminate()
        for left in (["link", "del", "sc-out"], ["netns", "del", SPACE]):
            subprocess.run(["ip", *left], check=False)


if __name__ == "__main__":
    main()
