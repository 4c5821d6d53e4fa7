//! The page for guests of meeting rooms, built by the UI, goes into the program. Without it the server says so in its place.
//!
//! The files are copied into cargo's folder: clones that share their target folder share what is built here too, and none of them
//! may need another one's files.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// From the package's folder, where cargo runs this. Relative, so that each clone looks into its own.
const BUILT: &str = "../../ui/dist-room";

fn main() {
    println!("cargo::rerun-if-changed={BUILT}");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo says where"));
    std::fs::create_dir_all(out.join("page/assets")).expect("cargo's folder can be written");
    let mut table = String::from("/// Path below `/r/`, bytes.\npub(super) static FILES: &[(&str, &[u8])] = &[\n");
    for name in files(Path::new(BUILT)) {
        println!("cargo::rerun-if-changed={BUILT}/{name}");
        std::fs::copy(Path::new(BUILT).join(&name), out.join("page").join(&name)).expect("what was listed can be copied");
        let file = format!("/page/{name}");
        writeln!(table, "    ({name:?}, include_bytes!(concat!(env!(\"OUT_DIR\"), {file:?}))),").expect("a string takes everything");
    }
    table.push_str("];\n");
    std::fs::write(out.join("guest_page.rs"), table).expect("cargo's folder can be written");
}

fn files(built: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["", "assets"] {
        let Ok(entries) = std::fs::read_dir(built.join(folder)) else { continue };
        for path in entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.is_file()) {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            found.push(if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") });
        }
    }
    found.sort();
    found
}
