//! `cargo xtask bundle`: a Debian package of the app.

use crate::sh::{cargo, output, run, say, target_dir};
use crate::{setup, test};
use anyhow::{Context as _, Result};
use std::fs;
use std::path::Path;
use std::process::Command;

const DESKTOP: &str = "[Desktop Entry]\nType=Application\nName=SecureConnect\nComment=A private home for the people you talk to\nComment[vi]=Ngôi nhà riêng cho những người bạn trò chuyện\nExec=secureconnect\nIcon=secureconnect\nTerminal=false\nCategories=Network;InstantMessaging;\n";

/// Builds `secureconnect_<version>_<arch>.deb` in the target folder.
pub fn deb() -> Result<()> {
    setup::build()?;
    test::ui_build()?;
    say("building the app");
    run(cargo().args(["build", "--release", "-p", "secureconnect"]))?;
    let target = target_dir()?;
    let stage = target.join("deb");
    if stage.exists() {
        fs::remove_dir_all(&stage)?;
    }
    let put = |from: &Path, to: &str| -> Result<()> {
        let to = stage.join(to);
        fs::create_dir_all(to.parent().context("a file has a folder")?)?;
        fs::copy(from, &to).with_context(|| format!("{}", from.display()))?;
        Ok(())
    };
    put(&target.join("release/secureconnect"), "usr/bin/secureconnect")?;
    put(Path::new("icons/128x128.png"), "usr/share/icons/hicolor/128x128/apps/secureconnect.png")?;
    put(Path::new("icons/icon.svg"), "usr/share/icons/hicolor/scalable/apps/secureconnect.svg")?;
    put(Path::new("LICENSE-MIT"), "usr/share/doc/secureconnect/copyright")?;
    fs::create_dir_all(stage.join("usr/share/applications"))?;
    fs::write(stage.join("usr/share/applications/secureconnect.desktop"), DESKTOP)?;
    let arch = output(Command::new("dpkg").arg("--print-architecture"))?.trim().to_owned();
    let version = env!("CARGO_PKG_VERSION");
    fs::create_dir_all(stage.join("DEBIAN"))?;
    fs::write(
        stage.join("DEBIAN/control"),
        format!(
            "Package: secureconnect\nVersion: {version}\nArchitecture: {arch}\nMaintainer: SecureConnect\nSection: net\nPriority: optional\nDepends: libwebkit2gtk-4.1-0, libgtk-3-0, libasound2, libssl3\nDescription: A private home for the people you talk to\n End-to-end encrypted conversations on servers anyone can run.\n"
        ),
    )?;
    let out = target.join(format!("secureconnect_{version}_{arch}.deb"));
    run(Command::new("dpkg-deb").args(["--root-owner-group", "--build"]).arg(&stage).arg(&out))?;
    println!("{} ({:.1} MB)", out.display(), fs::metadata(&out)?.len() as f64 / 1e6);
    Ok(())
}
