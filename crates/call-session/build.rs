//! Tells Tauri where the sources for Android and iOS are. No command is exposed to the web view.

fn main() {
    tauri_plugin::Builder::new(&[]).android_path("android").ios_path("ios").build();
}
