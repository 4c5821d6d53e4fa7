//! `cargo xtask bench`: the server under load, generator in the same process, and the device's store.
//!
//! The window's figures are taken by `ui/test/startup.mjs`, with a profile that this program fills.
//!
//! Figures go into `docs/benchmarks.md` with machine and command; a figure that was not seen is not written.

mod ceiling;
mod client;
mod crypto;
mod device;
mod load;
mod message;
mod server;
mod sfu;
mod storm;
mod turn;
mod video;
mod voice;

use anyhow::Result;

fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let on = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match wanted.as_slice() {
        [flag, dir, listen] if flag == "--serve" => return runtime.block_on(load::serve(dir, listen)),
        [flag, dir, server] if flag == "--prepare" => return runtime.block_on(device::prepare(dir, server)),
        [flag, dir] if flag == "--voice" => return voice::run(std::path::Path::new(dir)),
        [flag, listen] if flag == "--turn" => return runtime.block_on(turn::serve(listen)),
        [flag, listen] if flag == "--sfu" => return runtime.block_on(sfu::serve(listen)),
        [flag, dir] if flag == "--open" => return runtime.block_on(device::open(dir)),
        _ => {}
    }
    if on("crypto") {
        crypto::opaque()?;
        crypto::commits()?;
    }
    if on("turn") {
        turn::run()?;
    }
    if on("sfu") {
        sfu::run()?;
    }
    runtime.block_on(async {
        if on("video") {
            video::run().await?;
        }
        if on("device") {
            device::run().await?;
        }
        if on("message") {
            message::run().await?;
        }
        if on("client") {
            client::run().await?;
        }
        if on("load") {
            load::run().await?;
        }
        if on("storm") {
            storm::run().await?;
        }
        if on("server") {
            // In the same run, so that whatever else this machine does is in both.
            let (pairs, fan_out) = ceiling::run().await?;
            let (ours, ours_fan_out) = server::run().await?;
            println!("share of the ceiling: 1:1 {:.0} %, group {:.0} %", 100.0 * ours / pairs, 100.0 * ours_fan_out / fan_out);
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
