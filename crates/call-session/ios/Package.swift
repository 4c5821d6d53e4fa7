// swift-tools-version:5.3

import PackageDescription

let package = Package(
  name: "tauri-plugin-call-session",
  platforms: [
    .macOS(.v10_13),
    .iOS(.v14),
  ],
  products: [
    .library(name: "tauri-plugin-call-session", type: .static, targets: ["tauri-plugin-call-session"])
  ],
  dependencies: [
    .package(name: "Tauri", path: "../.tauri/tauri-api")
  ],
  targets: [
    .target(name: "tauri-plugin-call-session", dependencies: [.byName(name: "Tauri")], path: "Sources")
  ]
)
