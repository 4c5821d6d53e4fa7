//! What a phone has to know of a call or a room: that microphone and camera are needed (it asks the person), that sound is spoken and
//! heard (the audio session: earpiece or speaker, Bluetooth, other apps quiet), and that it goes on in the background (a foreground
//! service on Android, the `audio` background mode on iOS). On desktops nothing of this exists, and nothing is done.
//!
//! The web view cannot call any of it: the shell does, before microphone and camera are opened, and when what runs has changed.
//!
//! | what runs | the phone |
//! |---|---|
//! | nothing | is left alone |
//! | a call or a room | [`Kind::Voice`]: the session is active, a notice says so |
//! | with a camera | [`Kind::Video`]: the same, by the speaker, and the camera may be used in the background as long as it is seen |

use serde::{Deserialize, Serialize};
use tauri::plugin::{Builder, TauriPlugin};
use tauri::{Manager as _, Runtime};

/// What a call needs of the phone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The microphone.
    Voice,
    /// The microphone and the camera.
    Video,
}

/// Why a call cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The person does not allow the microphone.
    #[error("the microphone is not allowed")]
    MicrophoneDenied,
    /// The person does not allow the camera.
    #[error("the camera is not allowed")]
    CameraDenied,
    /// The system refuses.
    #[error("the phone refuses: {0}")]
    System(String),
}

/// What there is to tell the phone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// This runs now.
    Begin(Kind),
    /// Nothing does any more.
    End,
}

/// Makes changes of what is told of calls and rooms.
#[derive(Debug, Default)]
pub struct Follower {
    call: Option<Kind>,
    room: Option<Kind>,
    told: Option<Kind>,
}

impl Follower {
    /// The call is this now, or there is none.
    pub fn call(&mut self, kind: Option<Kind>) -> Option<Change> {
        self.call = kind;
        self.change()
    }

    /// The room is this now, or there is none.
    pub fn room(&mut self, kind: Option<Kind>) -> Option<Change> {
        self.room = kind;
        self.change()
    }

    fn change(&mut self) -> Option<Change> {
        let now = self.call.max(self.room);
        let before = std::mem::replace(&mut self.told, now);
        (before != now).then(|| now.map_or(Change::End, Change::Begin))
    }
}

/// The phone.
pub struct CallSession<R: Runtime> {
    #[cfg(mobile)]
    phone: tauri::plugin::PluginHandle<R>,
    #[cfg(desktop)]
    _runtime: std::marker::PhantomData<fn() -> R>,
}

#[cfg(mobile)]
#[derive(Serialize)]
struct Begin {
    kind: Kind,
}

#[cfg(mobile)]
#[derive(Deserialize)]
struct Allowed {
    microphone: bool,
    camera: bool,
}

#[cfg(mobile)]
impl<R: Runtime> CallSession<R> {
    fn ask<T: serde::de::DeserializeOwned>(&self, what: &str, with: impl Serialize) -> Result<T, SessionError> {
        self.phone.run_mobile_plugin(what, with).map_err(|e| SessionError::System(e.to_string()))
    }

    /// Asks the person for what it needs, if they have not been asked. Waits for them.
    pub fn permit(&self, kind: Kind) -> Result<(), SessionError> {
        let allowed: Allowed = self.ask("permit", Begin { kind })?;
        match kind {
            _ if !allowed.microphone => Err(SessionError::MicrophoneDenied),
            Kind::Video if !allowed.camera => Err(SessionError::CameraDenied),
            _ => Ok(()),
        }
    }

    /// Tells the phone.
    pub fn tell(&self, change: Change) -> Result<(), SessionError> {
        match change {
            Change::Begin(kind) => self.ask("begin", Begin { kind }),
            Change::End => self.ask("end", ()),
        }
    }
}

#[cfg(desktop)]
impl<R: Runtime> CallSession<R> {
    /// Asks the person for what it needs: a desktop asks by itself, or not at all.
    pub fn permit(&self, _kind: Kind) -> Result<(), SessionError> {
        Ok(())
    }

    /// Tells the phone: there is none.
    pub fn tell(&self, _change: Change) -> Result<(), SessionError> {
        Ok(())
    }
}

#[cfg(target_os = "ios")]
tauri::ios_plugin_binding!(init_plugin_call_session);

/// The plugin; afterwards there is a [`CallSession`] in the app's state.
#[must_use]
pub fn init<R: Runtime>() -> TauriPlugin<R> {
    Builder::new("call-session")
        .setup(|app, api| {
            #[cfg(target_os = "android")]
            let phone = api.register_android_plugin("org.secureconnect.callsession", "CallSessionPlugin")?;
            #[cfg(target_os = "ios")]
            let phone = api.register_ios_plugin(init_plugin_call_session)?;
            #[cfg(desktop)]
            drop(api);
            app.manage(CallSession::<R> {
                #[cfg(mobile)]
                phone,
                #[cfg(desktop)]
                _runtime: std::marker::PhantomData,
            });
            Ok(())
        })
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phone_is_told_once_of_what_runs_and_that_nothing_does() {
        let mut f = Follower::default();
        assert_eq!(f.call(Some(Kind::Voice)), Some(Change::Begin(Kind::Voice)));
        assert_eq!(f.call(Some(Kind::Voice)), None);
        assert_eq!(f.call(Some(Kind::Video)), Some(Change::Begin(Kind::Video)), "the camera came on");
        assert_eq!(f.room(None), None);
        assert_eq!(f.call(None), Some(Change::End));
        assert_eq!(f.call(None), None);
        assert_eq!(f.room(Some(Kind::Video)), Some(Change::Begin(Kind::Video)));
        assert_eq!(f.call(Some(Kind::Voice)), None, "the room has the camera already");
        assert_eq!(f.room(None), Some(Change::Begin(Kind::Voice)));
    }
}
