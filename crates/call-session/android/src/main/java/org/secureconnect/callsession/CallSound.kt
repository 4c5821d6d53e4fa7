package org.secureconnect.callsession

import android.content.Context
import android.media.AudioAttributes
import android.media.AudioDeviceInfo
import android.media.AudioFocusRequest
import android.media.AudioManager
import android.os.Build

/** Where a call is heard: other apps are quiet meanwhile, and a headset that is there goes first. Everything is as before afterwards. */
internal class CallSound(context: Context) {
    private val manager = context.getSystemService(Context.AUDIO_SERVICE) as AudioManager
    private var before: Int? = null
    private var focus: AudioFocusRequest? = null

    fun begin(video: Boolean) {
        if (before == null) {
            before = manager.mode
            hold()
        }
        manager.mode = AudioManager.MODE_IN_COMMUNICATION
        route(video)
    }

    fun end() {
        val mode = before ?: return
        before = null
        if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.S) {
            manager.clearCommunicationDevice()
        } else {
            @Suppress("DEPRECATION")
            manager.isSpeakerphoneOn = false
        }
        manager.mode = mode
        release()
    }

    private fun hold() {
        if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.O) {
            val spoken = AudioAttributes.Builder()
                .setUsage(AudioAttributes.USAGE_VOICE_COMMUNICATION)
                .setContentType(AudioAttributes.CONTENT_TYPE_SPEECH)
                .build()
            val request = AudioFocusRequest.Builder(AudioManager.AUDIOFOCUS_GAIN_TRANSIENT).setAudioAttributes(spoken).build()
            manager.requestAudioFocus(request)
            focus = request
        } else {
            @Suppress("DEPRECATION")
            manager.requestAudioFocus(null, AudioManager.STREAM_VOICE_CALL, AudioManager.AUDIOFOCUS_GAIN_TRANSIENT)
        }
    }

    private fun release() {
        if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.O) {
            focus?.let(manager::abandonAudioFocusRequest)
            focus = null
        } else {
            @Suppress("DEPRECATION")
            manager.abandonAudioFocus(null)
        }
    }

    /** A headset; without one the speaker when one looks at the phone, else the earpiece. */
    private fun route(video: Boolean) {
        if (Build.VERSION.SDK_INT < Build.VERSION_CODES.S) {
            val headset = manager.getDevices(AudioManager.GET_DEVICES_OUTPUTS).any { it.type in HEADSETS }
            @Suppress("DEPRECATION")
            manager.isSpeakerphoneOn = video && !headset
            return
        }
        val there = manager.availableCommunicationDevices
        val last = if (video) AudioDeviceInfo.TYPE_BUILTIN_SPEAKER else AudioDeviceInfo.TYPE_BUILTIN_EARPIECE
        val best = (HEADSETS + last).firstNotNullOfOrNull { type -> there.firstOrNull { it.type == type } }
        best?.let(manager::setCommunicationDevice)
    }

    private companion object {
        val HEADSETS = listOf(
            AudioDeviceInfo.TYPE_BLUETOOTH_SCO,
            // AudioDeviceInfo.TYPE_BLE_HEADSET, of Android 12.
            26,
            AudioDeviceInfo.TYPE_WIRED_HEADSET,
            AudioDeviceInfo.TYPE_USB_HEADSET,
            AudioDeviceInfo.TYPE_WIRED_HEADPHONES,
        )
    }
}
