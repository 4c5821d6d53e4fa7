//! Accounts and devices: registering, logging in, linking, removing.

use super::{ACCOUNT, Engine, Event, SESSION, cbor, lock};
use crate::account::{self, Account, Prepared};
use crate::api::Api;
use crate::sync;
use crate::{EngineError, EngineResult};
use sc_e2ee::identity::{AccountIdentity, DeviceKeys, link_code};
use sc_protocol::identity::DeviceList;
use sc_protocol::rest::{ApproveDevice, DeviceInfo, Empty, PutDeviceList, Session};
use sc_protocol::{Blob, DeviceId, ErrorCode};

/// Keys that are being posted, see [`Prepared`].
pub(super) const PREPARED: &str = "account_next";

fn code(a: &Account) -> String {
    link_code(a.user, a.device.device_id, &a.device.public(), &a.device.link_public(), &a.expected_identity.unwrap_or_default())
}

impl Engine {
    /// Makes a new account with this as its first device.
    pub async fn register(&self, server: &str, username: &str, password: &str, device_name: &str) -> EngineResult<()> {
        if self.account().is_some() {
            return Err(EngineError::invalid("LOGGED_IN", "This profile has an account already."));
        }
        account::check_credentials(username, password)?;
        let api = Api::new(server)?;
        let kept = self.prepared()?.filter(|p| p.account.server == api.base() && p.account.username == username);
        let again = kept.is_some();
        let prepared = match kept {
            Some(p) => p,
            None => account::Prepared::account(&self.0.db.crypto, &api, username).await?,
        };
        self.keep_prepared(&prepared).await?;
        let session = match account::register(&api, &prepared, password, device_name).await {
            Ok(session) => session,
            // An earlier try may have come through without its answer: then the name is taken by this very device.
            Err(taken @ EngineError::Server(_)) if again && taken.code() == ErrorCode::UsernameTaken.as_str() => {
                let session = account::login(&api, username, password, &prepared.account.device, device_name).await;
                let ours = |s: &Session| !s.pending && s.user_id == prepared.account.user;
                session.ok().filter(ours).ok_or(taken)?
            }
            Err(e) => return Err(e),
        };
        self.take_prepared(&prepared, &session).await?;
        self.go_live(prepared.account, Some(session)).await
    }

    /// What was prepared and may have been taken by the server.
    pub(super) fn prepared(&self) -> EngineResult<Option<Prepared>> {
        let kept: Option<Prepared> = self.read(|r| r.meta(PREPARED))?.and_then(|b| ciborium::from_reader(b.as_slice()).ok());
        kept.map(|p| p.renewed(&self.0.db.crypto)).transpose()
    }

    /// Stores what is about to be posted.
    pub(super) async fn keep_prepared(&self, p: &Prepared) -> EngineResult<()> {
        let bytes = cbor(p)?;
        self.0.db.write(move |cx| Ok(cx.w.set_meta(PREPARED, &bytes)?)).await
    }

    /// The server has taken it: it is the account from now on.
    async fn take_prepared(&self, p: &Prepared, session: &Session) -> EngineResult<()> {
        let (p, a, s) = (p.clone(), cbor(&p.account)?, cbor(session)?);
        self.0
            .db
            .write(move |cx| {
                p.install(cx)?;
                cx.w.set_meta(ACCOUNT, &a)?;
                cx.w.set_meta(SESSION, &s)?;
                Ok(cx.w.delete_meta(PREPARED)?)
            })
            .await
    }

    /// Logs in: this device again, or as a new device of the account that then waits for approval. Returns the code to
    /// compare when it waits.
    pub async fn login(&self, server: &str, username: &str, password: &str, device_name: &str) -> EngineResult<Option<String>> {
        if let Some(known) = self.account() {
            if known.username != username {
                return Err(EngineError::invalid("LOGGED_IN", "This profile belongs to another account."));
            }
            let shared = self.shared()?;
            let session = account::login(&shared.api, username, password, &known.device, device_name).await?;
            self.store_account(&known, &session).await?;
            shared.api.set_session(session).await?;
            shared.hurry.notify_one();
            return Ok(known.identity.is_none().then(|| code(&known)));
        }
        let api = Api::new(server)?;
        let device = DeviceKeys::generate(&mut rand::rngs::OsRng);
        let session = account::login(&api, username, password, &device, device_name).await?;
        let api = self.api(server, Some(session.clone()))?;
        let account = account::pending_account(&api, &session, device).await?;
        self.store_account(&account, &session).await?;
        let code = code(&account);
        self.go_live(account, Some(session)).await?;
        Ok(Some(code))
    }

    /// The code this device shows while it waits to be linked.
    #[must_use]
    pub fn waiting_code(&self) -> Option<String> {
        self.account().filter(|a| a.identity.is_none()).map(|a| code(&a))
    }

    /// Asks whether this device was approved; once it was, it connects.
    pub async fn poll_link(&self) -> EngineResult<bool> {
        let account = self.account().ok_or(EngineError::Locked("Log in first."))?;
        if account.identity.is_some() {
            return Ok(true);
        }
        let shared = self.shared()?;
        let Some(identity) = account::poll_link(&shared.api, &account).await? else { return Ok(false) };
        let account = Account { identity: Some(identity.seed()), ..account };
        self.become_device(account).await?;
        Ok(true)
    }

    /// Goes on as another device of the account: after linking, after a new identity.
    pub(super) async fn become_device(&self, account: Account) -> EngineResult<()> {
        let shared = self.shared()?;
        shared.stop.send_replace(true);
        let session = shared.api.session();
        let a = cbor(&account)?;
        self.0.db.write(move |cx| Ok(cx.w.set_meta(ACCOUNT, &a)?)).await?;
        self.0.db.set_own(Some(account.own())).await?;
        let api = self.api(&account.server, session)?;
        let fresh = shared.successor(api, account.own());
        *lock(&self.0.account) = Some(account);
        *lock(&self.0.live) = Some(fresh.clone());
        tokio::spawn(sync::run_gateway(fresh.clone()));
        tokio::spawn(sync::run_outbox(fresh));
        let _ = self.0.events.send(Event::Devices);
        Ok(())
    }

    /// The account's devices.
    pub async fn devices(&self) -> EngineResult<Vec<DeviceInfo>> {
        self.shared()?.api.get("/v1/devices").await
    }

    /// The code a waiting device shows.
    pub fn code_of(&self, d: &DeviceInfo) -> EngineResult<String> {
        let own = self
            .shared()?
            .own
            .identity
            .as_ref()
            .map(AccountIdentity::public)
            .ok_or(EngineError::Locked("This device is not linked yet."))?;
        Ok(link_code(self.own_user()?, d.device_id, d.signature_key.as_slice(), d.link_key.as_slice(), &own))
    }

    /// Approves a device whose code was compared.
    pub async fn approve_device(&self, device: DeviceId, shown: &str) -> EngineResult<()> {
        let shared = self.shared()?;
        let identity = shared.own.identity.clone().ok_or(EngineError::Locked("This device is not linked yet."))?;
        let waiting = self.devices().await?.into_iter().find(|d| d.device_id == device && d.pending);
        let waiting = waiting.ok_or_else(|| EngineError::invalid("NOT_FOUND", "No such device waits for approval."))?;
        let digits = |s: &str| s.chars().filter(char::is_ascii_digit).collect::<String>();
        if digits(&self.code_of(&waiting)?) != digits(shown) {
            return Err(EngineError::invalid("WRONG_CODE", "The code is not the one the new device shows. Do not approve it."));
        }
        let mut list = account::own_list(&shared.api, &shared.own).await?;
        let key = |b: &Blob| -> EngineResult<[u8; 32]> {
            b.as_slice().try_into().map_err(|_| EngineError::invalid("IDENTITY_MISMATCH", "The device's keys are malformed."))
        };
        list.version += 1;
        list.devices.push((device, key(&waiting.signature_key)?));
        let sealed = identity.seal_for(&key(&waiting.link_key)?, &mut rand::rngs::OsRng)?;
        let body = ApproveDevice { device_list: Blob::from(identity.sign_list(&list)), sealed_identity: Blob::from(sealed) };
        let _: Empty = shared.api.post(&format!("/v1/devices/{device}/approve"), &body).await?;
        let _ = self.0.events.send(Event::Devices);
        Ok(())
    }

    /// Removes a device from the account.
    pub async fn revoke_device(&self, device: DeviceId) -> EngineResult<()> {
        let shared = self.shared()?;
        let identity = shared.own.identity.clone().ok_or(EngineError::Locked("This device is not linked yet."))?;
        let list = account::own_list(&shared.api, &shared.own).await?;
        let devices = list.devices.into_iter().filter(|(d, _)| *d != device).collect();
        let list = DeviceList { version: list.version + 1, devices, ..list };
        let body = PutDeviceList { device_list: Blob::from(identity.sign_list(&list)) };
        let _: Empty = shared.api.put("/v1/devices/list", &body).await?;
        let _ = self.0.events.send(Event::Devices);
        Ok(())
    }
}
