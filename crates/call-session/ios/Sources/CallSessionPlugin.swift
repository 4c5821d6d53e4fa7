import AVFoundation
import SwiftRs
import Tauri
import UIKit
import WebKit

struct KindArgs: Decodable {
  let kind: String
  var video: Bool { kind == "video" }
}

struct Allowed: Encodable {
  let microphone: Bool
  let camera: Bool
}

/// Calls on iOS: asks for microphone and camera and holds the audio session. With the background mode `audio` the system lets a call go on
/// when the app is out of sight; the camera it stops by itself.
class CallSessionPlugin: Plugin {
  private let session = AVAudioSession.sharedInstance()
  private var runs = false
  private var video = false

  override func load(webview: WKWebView) {
    let center = NotificationCenter.default
    center.addObserver(self, selector: #selector(interrupted), name: AVAudioSession.interruptionNotification, object: session)
    center.addObserver(self, selector: #selector(reset), name: AVAudioSession.mediaServicesWereResetNotification, object: session)
  }

  /// Asks for what is missing; answers what is allowed.
  @objc func permit(_ invoke: Invoke) throws {
    let args = try invoke.parseArgs(KindArgs.self)
    AVCaptureDevice.requestAccess(for: .audio) { microphone in
      guard args.video else {
        invoke.resolve(Allowed(microphone: microphone, camera: false))
        return
      }
      AVCaptureDevice.requestAccess(for: .video) { camera in
        invoke.resolve(Allowed(microphone: microphone, camera: camera))
      }
    }
  }

  /// A call runs, or another kind of one.
  @objc func begin(_ invoke: Invoke) throws {
    video = try invoke.parseArgs(KindArgs.self).video
    do {
      try activate()
      runs = true
      invoke.resolve()
    } catch {
      invoke.reject(error.localizedDescription)
    }
  }

  /// No call runs any more: what played before may go on.
  @objc func end(_ invoke: Invoke) {
    runs = false
    do {
      try session.setActive(false, options: .notifyOthersOnDeactivation)
      invoke.resolve()
    } catch {
      invoke.reject(error.localizedDescription)
    }
  }

  /// A headset goes first; without one the speaker when one looks at the phone, else the earpiece.
  private func activate() throws {
    var options: AVAudioSession.CategoryOptions = [.allowBluetooth, .allowBluetoothA2DP]
    if video { options.insert(.defaultToSpeaker) }
    try session.setCategory(.playAndRecord, mode: video ? .videoChat : .voiceChat, options: options)
    try session.setPreferredSampleRate(48_000)
    try session.setActive(true)
  }

  /// A phone call, an alarm: afterwards the call goes on.
  @objc private func interrupted(_ notification: Notification) {
    guard runs,
      let raw = notification.userInfo?[AVAudioSessionInterruptionTypeKey] as? UInt,
      AVAudioSession.InterruptionType(rawValue: raw) == .ended
    else { return }
    resume()
  }

  @objc private func reset(_ notification: Notification) {
    if runs { resume() }
  }

  private func resume() {
    do {
      try activate()
    } catch {
      NSLog("SecureConnect: the audio session does not come back: %@", error.localizedDescription)
    }
  }
}

@_cdecl("init_plugin_call_session")
func initPlugin() -> Plugin {
  return CallSessionPlugin()
}
