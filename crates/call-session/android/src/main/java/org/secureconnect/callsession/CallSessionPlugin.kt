package org.secureconnect.callsession

import android.Manifest
import android.app.Activity
import android.os.Build
import android.webkit.WebView
import app.tauri.PermissionState
import app.tauri.annotation.Command
import app.tauri.annotation.InvokeArg
import app.tauri.annotation.Permission
import app.tauri.annotation.PermissionCallback
import app.tauri.annotation.TauriPlugin
import app.tauri.plugin.Invoke
import app.tauri.plugin.JSObject
import app.tauri.plugin.Plugin

@InvokeArg
internal class KindArgs {
    lateinit var kind: String

    val video get() = kind == "video"
}

/**
 * Calls on Android: asks for microphone and camera, holds the audio focus, and keeps a service in the foreground as long as a call runs,
 * or the system would silence the microphone as soon as the app is out of sight.
 */
@TauriPlugin(
    permissions = [
        Permission(strings = [Manifest.permission.RECORD_AUDIO], alias = "microphone"),
        Permission(strings = [Manifest.permission.CAMERA], alias = "camera"),
        Permission(strings = ["android.permission.POST_NOTIFICATIONS"], alias = "notifications"),
        Permission(strings = ["android.permission.BLUETOOTH_CONNECT"], alias = "bluetooth"),
    ],
)
class CallSessionPlugin(private val activity: Activity) : Plugin(activity) {
    private lateinit var sound: CallSound

    override fun load(webView: WebView) {
        sound = CallSound(activity.applicationContext)
    }

    /** Asks for what is missing; answers what is allowed. A notice that is not allowed hinders nothing. */
    @Command
    fun permit(invoke: Invoke) {
        val args = invoke.parseArgs(KindArgs::class.java)
        val wanted = buildList {
            add("microphone")
            if (args.video) add("camera")
            if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.TIRAMISU) add("notifications")
            if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.S) add("bluetooth")
        }
        val open = wanted.filter { getPermissionState(it) != PermissionState.GRANTED }
        if (open.isEmpty()) answer(invoke) else requestPermissionForAliases(open.toTypedArray(), invoke, "answered")
    }

    @PermissionCallback
    fun answered(invoke: Invoke) {
        answer(invoke)
    }

    private fun answer(invoke: Invoke) {
        val allowed = JSObject()
        for (what in listOf("microphone", "camera")) {
            allowed.put(what, getPermissionState(what) == PermissionState.GRANTED)
        }
        invoke.resolve(allowed)
    }

    /** A call runs, or another kind of one. */
    @Command
    fun begin(invoke: Invoke) {
        val video = invoke.parseArgs(KindArgs::class.java).video
        try {
            // The type of a service may only be what is allowed, or the system ends the app.
            val seen = video && getPermissionState("camera") == PermissionState.GRANTED
            CallService.start(activity, seen)
            sound.begin(video)
            invoke.resolve()
        } catch (refused: RuntimeException) {
            // Out of sight no service may be started; the call goes on as long as the app is seen.
            invoke.reject(refused.message ?: refused.javaClass.simpleName)
        }
    }

    /** No call runs any more. */
    @Command
    fun end(invoke: Invoke) {
        sound.end()
        CallService.stop(activity)
        invoke.resolve()
    }
}
