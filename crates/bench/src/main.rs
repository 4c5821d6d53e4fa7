//! `cargo xtask bench`: the server under load, generator in the same process, and the device's store.
//!
//! Figures go into `docs/benchmarks.md` with machine and command; a figure that was not seen is not written.

mod client;
mod device;
mod server;

use anyhow::Result;

fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let on = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if on("search") {
        device::search()?;
    }
    runtime.block_on(async {
        if on("client") {
            client::run().await?;
        }
        if on("server") {
            server::run().await?;
        }
        Ok(())
    })
}

/// p50 and p99 of durations in milliseconds.
pub fn percentiles(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let i = ((values.len().saturating_sub(1)) as f64 * share) as usize;
        values.get(i).copied().unwrap_or(f64::NAN)
    };
    (at(0.5), at(0.99))
}
