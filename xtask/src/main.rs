//! The two commands of the README and every step of CI.
//!
//! `cargo xtask run` sets up what is missing and runs the main job; `cargo xtask test` sets up what is missing and runs
//! every test. Other steps: `lint`, `ui`, `bench`, `fuzz`, `bundle`, `setup`.

mod bundle;
mod fuzz;
mod setup;
mod sh;
mod story;
mod test;

use anyhow::{Result, bail};
use std::process::ExitCode;

const USAGE: &str = "cargo xtask <step>

  run      server and app window; without a display the same story in the terminal
  test     every test
  lint     formatting and lints
  ui       checks and builds the UI
  bench    the project's benchmarks (see docs/benchmarks.md)
  fuzz     every parser of outside bytes, a minute or as many seconds as you say
  bundle   a Debian package of the app
  setup    installs what is missing";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let step = args.next().unwrap_or_default();
    match run(&step, &args.collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("\nxtask {step}: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(step: &str, rest: &[String]) -> Result<()> {
    std::env::set_current_dir(sh::root()?)?;
    match step {
        "run" => story::run(),
        "test" => test::all(),
        "lint" => test::lint(),
        "ui" => {
            setup::node()?;
            test::ui_checks()
        }
        "bench" => test::bench(rest),
        "fuzz" => fuzz::run_all(rest),
        "bundle" => bundle::deb(),
        "setup" => setup::all(),
        _ => bail!("unknown step\n\n{USAGE}"),
    }
}
