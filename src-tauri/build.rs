//! Builds the manifest of what the window may call.

fn main() {
    println!("cargo:rerun-if-changed=src-tauri/permissions");
    println!("cargo:rerun-if-changed=src-tauri/capabilities");
    if let Err(e) = tauri_build::try_build(
        tauri_build::Attributes::new()
            .capabilities_path_pattern("src-tauri/capabilities/**/*.json")
            .app_manifest(tauri_build::AppManifest::new().permissions_path_pattern("src-tauri/permissions/**/*.toml")),
    ) {
        panic!("tauri-build failed: {e:#}");
    }
}
