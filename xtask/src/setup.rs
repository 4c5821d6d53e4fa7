//! Installs what is missing, and says so.

use crate::sh::{cargo, exists, output, run, say, target_dir};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the build and the app need on Debian and Ubuntu.
const BUILD: &[&str] = &[
    "build-essential",
    "cmake",
    "pkg-config",
    "libasound2-dev",
    "libclang-dev",
    "libssl-dev",
    "libvpx-dev",
    "libwebkit2gtk-4.1-dev",
    "librsvg2-dev",
    "libxdo-dev",
    "libdbus-1-dev",
];
/// What the tests need besides.
const TEST: &[&str] = &[
    "chromium",
    "xvfb",
    "webkit2gtk-driver",
    "dbus",
    "gnome-keyring",
    "libsecret-tools",
    "fonts-noto-core",
    "fonts-noto-color-emoji",
    "pulseaudio",
    "pulseaudio-utils",
    "coturn",
    "iproute2",
    "iptables",
];
/// What making speech and judging it needs.
const SPEECH: &[&str] = &["espeak-ng", "iproute2", "pulseaudio", "pulseaudio-utils", "python3", "python3-dev", "python3-venv"];

/// Everything for building and testing.
pub fn all() -> Result<()> {
    packages(BUILD)?;
    packages(TEST)?;
    node()
}

/// What building the app needs.
pub fn build() -> Result<()> {
    packages(BUILD)?;
    node()
}

/// What the server and the command line need.
pub fn headless() -> Result<()> {
    packages(&["build-essential", "cmake", "pkg-config", "libasound2-dev", "libclang-dev", "libssl-dev", "libvpx-dev"])
}

/// The server that the forwarding unit is measured beside.
pub fn janus() -> Result<()> {
    packages(&["janus", "util-linux", "iproute2"])
}

/// A Python that compares speech; made once into the target folder.
pub fn speech() -> Result<PathBuf> {
    packages(SPEECH)?;
    let folder = target_dir()?.join("tools/speech");
    let python = folder.join("bin/python");
    let works = |p: &Path| Command::new(p).args(["-c", "import pesq, pystoi"]).stderr(Stdio::null()).status().is_ok_and(|s| s.success());
    if !works(&python) {
        say("installing the judges of speech: PESQ and STOI");
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
        run(Command::new(&python).args(["-m", "pip", "install", "-q", "pesq==0.0.4", "pystoi==0.4.1", "numpy", "scipy"]))?;
    }
    Ok(python)
}

fn installed(package: &str) -> bool {
    let out = Command::new("dpkg-query").args(["-W", "-f=${Status}", package]).stderr(Stdio::null()).output();
    out.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains("install ok installed"))
}

fn packages(wanted: &[&str]) -> Result<()> {
    if !exists("dpkg-query") {
        println!("This is not Debian or Ubuntu: make sure that {} are installed.", wanted.join(", "));
        return Ok(());
    }
    let missing: Vec<&str> = wanted.iter().copied().filter(|p| !installed(p)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    say(&format!("installing {}", missing.join(" ")));
    let root = output(Command::new("id").arg("-u"))?.trim() == "0";
    let apt = |args: &[&str]| {
        let mut c = if root { Command::new("apt-get") } else { Command::new("sudo") };
        if !root {
            c.arg("apt-get");
        }
        c.args(args).env("DEBIAN_FRONTEND", "noninteractive");
        c
    };
    let install = run(&mut apt(&["update", "-qq"])).and_then(|()| {
        let mut args = vec!["install", "-y", "-qq", "--no-install-recommends"];
        args.extend(&missing);
        run(&mut apt(&args))
    });
    if install.is_err() {
        bail!("install them by hand and try again: apt-get install {}", missing.join(" "));
    }
    Ok(())
}

/// The checker of dependencies, built once into the target folder.
pub fn cargo_deny() -> Result<PathBuf> {
    const VERSION: &str = "0.20.2";
    let tools = target_dir()?.join("tools");
    let program = tools.join("bin/cargo-deny");
    let have = Command::new(&program).arg("--version").output().is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains(VERSION));
    if !have {
        say("installing cargo-deny");
        run(cargo().args(["install", "cargo-deny", "--locked", "--quiet", "--version", VERSION, "--root"]).arg(&tools))?;
    }
    Ok(program)
}

/// The UI's packages, from the lock file, when it changed.
pub fn node() -> Result<()> {
    if !exists("node") || !exists("npm") {
        bail!("Node.js 20 or newer is needed for the UI. Install nodejs and npm and try again.");
    }
    let lock = std::fs::read("ui/package-lock.json")?;
    let stamp = Path::new("ui/node_modules/.secureconnect-lock");
    if std::fs::read(stamp).is_ok_and(|s| s == lock) {
        return Ok(());
    }
    say("installing the UI's packages");
    run(Command::new("npm").args(["ci", "--no-audit", "--no-fund", "--loglevel=error"]).current_dir("ui"))?;
    std::fs::write(stamp, lock)?;
    Ok(())
}
