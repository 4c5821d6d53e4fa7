//! The page for guests of meeting rooms, built by the UI, goes into the program. Without it the server says so in its place.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// From the package's folder, where cargo runs this. Relative, so that a clone that shares its target folder with another one looks
/// into its own.
const BUILT: &str = "../../ui/dist-room";

fn main() {
    let built = Path::new(BUILT);
    println!("cargo::rerun-if-changed={BUILT}");
    let mut table = String::from("/// Path below `/r/`, bytes.\npub(super) static FILES: &[(&str, &[u8])] = &[\n");
    for (name, file) in files(built) {
        println!("cargo::rerun-if-changed={BUILT}/{name}");
        writeln!(table, "    ({name:?}, include_bytes!({:?})),", file.display().to_string()).expect("a string takes everything");
    }
    table.push_str("];\n");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo says where")).join("guest_page.rs");
    std::fs::write(out, table).expect("cargo's folder can be written");
}

fn files(built: &Path) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for folder in ["", "assets"] {
        let Ok(entries) = std::fs::read_dir(built.join(folder)) else { continue };
        for path in entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.is_file()) {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let name = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
            found.push((name, path.canonicalize().unwrap_or(path)));
        }
    }
    found.sort();
    found
}
