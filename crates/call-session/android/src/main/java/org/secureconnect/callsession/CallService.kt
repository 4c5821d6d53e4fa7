package org.secureconnect.callsession

import android.app.Notification
import android.app.NotificationChannel
import android.app.NotificationManager
import android.app.PendingIntent
import android.app.Service
import android.content.Context
import android.content.Intent
import android.content.pm.ServiceInfo
import android.os.Build
import android.os.IBinder
import androidx.core.app.NotificationCompat
import androidx.core.app.ServiceCompat
import androidx.core.content.ContextCompat

/** Says to the system, and in a notice to the person, that a call runs. It does nothing itself, and its notice names nobody. */
class CallService : Service() {
    override fun onBind(intent: Intent?): IBinder? = null

    override fun onStartCommand(intent: Intent?, flags: Int, startId: Int): Int {
        val types = when {
            Build.VERSION.SDK_INT < Build.VERSION_CODES.R -> 0
            intent?.getBooleanExtra(VIDEO, false) == true ->
                ServiceInfo.FOREGROUND_SERVICE_TYPE_MICROPHONE or ServiceInfo.FOREGROUND_SERVICE_TYPE_CAMERA
            else -> ServiceInfo.FOREGROUND_SERVICE_TYPE_MICROPHONE
        }
        ServiceCompat.startForeground(this, ID, notice(), types)
        // After the end of the app there is no call to come back to.
        return START_NOT_STICKY
    }

    private fun notice(): Notification {
        if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.O) {
            val channel = NotificationChannel(CHANNEL, getString(R.string.call_channel), NotificationManager.IMPORTANCE_LOW)
            getSystemService(NotificationManager::class.java).createNotificationChannel(channel)
        }
        val back = packageManager.getLaunchIntentForPackage(packageName)?.let {
            PendingIntent.getActivity(this, 0, it, PendingIntent.FLAG_IMMUTABLE)
        }
        return NotificationCompat.Builder(this, CHANNEL)
            .setSmallIcon(R.drawable.ic_call)
            .setContentTitle(getString(R.string.call_runs))
            .setContentText(getString(R.string.call_return))
            .setCategory(NotificationCompat.CATEGORY_CALL)
            .setContentIntent(back)
            .setOngoing(true)
            .build()
    }

    companion object {
        private const val ID = 1
        private const val CHANNEL = "calls"
        private const val VIDEO = "video"

        internal fun start(context: Context, video: Boolean) {
            ContextCompat.startForegroundService(context, Intent(context, CallService::class.java).putExtra(VIDEO, video))
        }

        internal fun stop(context: Context) {
            context.stopService(Intent(context, CallService::class.java))
        }
    }
}
