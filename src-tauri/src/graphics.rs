//! How the web view draws under Linux where there is no graphics card.
//!
//! WebKitGTK composes its window by OpenGL. Without a card that is done by the processor, the whole window for each picture of a call, and
//! is more than half of what such a call takes (`docs/benchmarks.md`). Its other way draws only what has changed. It is chosen by a variable
//! of the environment that WebKit reads at its start, and a running program cannot safely change its environment: it starts itself anew, once.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

const PLAIN: &str = "WEBKIT_DISABLE_DMABUF_RENDERER";

/// Where the system keeps its cards.
const CARDS: &str = "/dev/dri";

/// Starts the program anew, in the same process, with plain drawing when there is no card. Comes back when there is nothing to change.
/// Whoever has set the variable, to whatever, has chosen.
pub fn choose() {
    if std::env::var_os(PLAIN).is_some() || has_card(Path::new(CARDS)) {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let failed = Command::new(program).args(std::env::args_os().skip(1)).env(PLAIN, "1").exec();
    tracing::warn!(cause = %failed, "the window is drawn the slow way");
}

/// A card that can draw, not only show.
fn has_card(cards: &Path) -> bool {
    std::fs::read_dir(cards).is_ok_and(|found| found.flatten().any(|f| f.file_name().to_string_lossy().starts_with("renderD")))
}
