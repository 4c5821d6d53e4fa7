//! `cargo xtask fuzz [SECONDS]`: every parser of outside bytes, coverage-guided, on the stable compiler.

use crate::setup;
use crate::sh::{cargo, output, root, run, say, target_dir};
use anyhow::{Result, bail, ensure};
use std::process::Command;

/// Seconds for all targets together, in CI.
const SECONDS: u64 = 60;

/// Builds the targets instrumented, writes seeds and runs each target for its share of the time.
pub fn run_all(rest: &[String]) -> Result<()> {
    let seconds: u64 = match rest.first() {
        Some(s) => s.parse()?,
        None => SECONDS,
    };
    setup::headless()?;
    say("building the fuzz targets");
    run(cargo().args(["build", "-p", "sc-fuzz"]).env("RUSTC_WORKSPACE_WRAPPER", root()?.join("fuzz/rustc-fuzz")))?;
    let bin = target_dir()?.join("debug/sc-fuzz");
    let work = target_dir()?.join("fuzz");
    let seeds = work.join("seeds");
    run(Command::new(&bin).arg(format!("--seeds={}", seeds.display())))?;
    let names = output(Command::new(&bin).arg("--list"))?;
    let targets: Vec<&str> = names.split_whitespace().collect();
    ensure!(!targets.is_empty(), "the fuzz program names no targets");
    let share = (seconds / u64::try_from(targets.len())?).max(1);
    for target in targets {
        say(&format!("fuzzing {target} for {share} s"));
        let (corpus, found) = (work.join("corpus").join(target), work.join("found"));
        std::fs::create_dir_all(&corpus)?;
        std::fs::create_dir_all(&found)?;
        let done = Command::new(&bin)
            .arg(format!("--target={target}"))
            .arg(&corpus)
            .arg(seeds.join(target))
            .args([format!("-max_total_time={share}"), "-timeout=5".into(), "-rss_limit_mb=1024".into(), "-verbosity=1".into()])
            .arg(format!("-artifact_prefix={}/{target}-", found.display()))
            .output()?;
        let log = String::from_utf8_lossy(&done.stderr);
        if !done.status.success() {
            bail!(
                "{target} found something; the input is in {}\n{}",
                found.display(),
                log.lines().rev().take(40).collect::<Vec<_>>().join("\n")
            );
        }
        // A build without instrumentation finds nothing and says so only in a warning.
        ensure!(log.contains("inline 8-bit counters"), "{target} is not instrumented");
        println!("{}", log.lines().rev().find(|l| l.contains("cov:")).unwrap_or_default());
    }
    Ok(())
}
