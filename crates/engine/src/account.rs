//! Registration, login, linking, new identities, key packages. The password is used here and goes nowhere.

use crate::api::Api;
use crate::core::{Db, Own, certificate};
use crate::{EngineError, EngineResult};
use opaque_ke::errors::ProtocolError;
use opaque_ke::{
    ClientLogin, ClientLoginFinishParameters, ClientRegistration, ClientRegistrationFinishParameters, CredentialResponse, Identifiers,
    RegistrationResponse,
};
use rand::rngs::OsRng;
use sc_e2ee::group::key_package;
use sc_e2ee::identity::{AccountIdentity, DeviceKeys};
use sc_protocol::identity::DeviceList;
use sc_protocol::opaque::{CONTEXT, Suite};
use sc_protocol::rest::{
    AuthChallenge, Empty, KeyPackageCount, KeyPackageUpload, LoginFinish, LoginStart, NewDevice, RegisterFinish, RegisterStart,
    ResetIdentity, ServerInfo, Session, UploadKeyPackages, UserInfo, login_proof,
};
use sc_protocol::{Blob, ErrorBody, ErrorCode, UserId, limits, suite};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// What is kept of the account, in the encrypted store.
#[derive(Clone, Serialize, Deserialize)]
pub struct Account {
    /// The server's address.
    pub server: String,
    /// The account.
    pub user: UserId,
    /// Its name.
    pub username: String,
    /// This device.
    pub device: DeviceKeys,
    /// Seed of the account identity, once the device is linked.
    pub identity: Option<[u8; 32]>,
    /// The server's key for proposals.
    #[serde(with = "serde_bytes")]
    pub server_key: Vec<u8>,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Account({})", self.username)
    }
}

impl Account {
    /// As the core needs it.
    #[must_use]
    pub fn own(&self) -> Own {
        let identity = self.identity.as_ref().map(AccountIdentity::from_seed);
        let certificate = identity.as_ref().map(|i| certificate(i, self.user, &self.device)).unwrap_or_default();
        Own {
            user: self.user,
            username: self.username.clone(),
            device: self.device.clone(),
            certificate,
            identity,
            server_key: self.server_key.clone(),
        }
    }
}

fn blob32(b: &[u8; 32]) -> Blob {
    Blob::from(b.as_slice())
}

fn new_device(device: &DeviceKeys, name: &str) -> NewDevice {
    let name: String = name.chars().take(32).collect();
    let name = if name.is_empty() { "Device".to_owned() } else { name };
    NewDevice { device_id: device.device_id, name, signature_key: blob32(&device.public()), link_key: blob32(&device.link_public()) }
}

fn broken(e: impl std::fmt::Display) -> EngineError {
    EngineError::Offline(format!("the server's answer makes no sense: {e}"))
}

fn check_name(username: &str) -> EngineResult<()> {
    if limits::username_is_valid(username) {
        return Ok(());
    }
    Err(EngineError::invalid("BAD_USERNAME", "A username has 3 to 32 characters: a-z, 0-9, '.', '_' and '-'."))
}

/// Makes a new account with this as its first device.
pub async fn register(api: &Api, username: &str, password: &str, device_name: &str) -> EngineResult<(Account, Session)> {
    check_name(username)?;
    if password.chars().count() < 8 {
        return Err(EngineError::invalid("WEAK_PASSWORD", "A password has at least 8 characters."));
    }
    let server: ServerInfo = api.open_get("/v1/server").await?;
    let start = ClientRegistration::<Suite>::start(&mut OsRng, password.as_bytes()).map_err(broken)?;
    let request = RegisterStart { username: username.to_owned(), request: Blob::from(start.message.serialize().as_slice()) };
    let challenge: AuthChallenge = api.open_post("/v1/auth/register/start", &request).await?;
    let response = RegistrationResponse::deserialize(challenge.response.as_slice()).map_err(broken)?;
    let secret = Zeroizing::new(password.to_owned());
    let state = start.state;
    let upload = tokio::task::spawn_blocking(move || {
        let finish =
            state.finish(&mut OsRng, secret.as_bytes(), response, ClientRegistrationFinishParameters::new(Identifiers::default(), None));
        finish.map(|f| Blob::from(f.message.serialize().as_slice()))
    })
    .await
    .map_err(broken)?
    .map_err(broken)?;
    let (identity, device, user) = (AccountIdentity::generate(&mut OsRng), DeviceKeys::generate(&mut OsRng), UserId::generate());
    let list = DeviceList { user_id: user, version: 1, devices: vec![(device.device_id, device.public())] };
    let finish = RegisterFinish {
        username: username.to_owned(),
        upload,
        user_id: user,
        identity_key: blob32(&identity.public()),
        device: new_device(&device, device_name),
        device_list: Blob::from(identity.sign_list(&list)),
    };
    let session: Session = api.open_post("/v1/auth/register/finish", &finish).await?;
    let account = Account {
        server: api.base().to_owned(),
        user,
        username: username.to_owned(),
        device,
        identity: Some(*identity.seed()),
        server_key: server.external_sender.to_vec(),
    };
    Ok((account, session))
}

/// Logs a device in. A device the account does not know waits until another one approves it.
pub async fn login(api: &Api, username: &str, password: &str, device: &DeviceKeys, device_name: &str) -> EngineResult<Session> {
    check_name(username)?;
    let wrong = || EngineError::Server(Box::new(ErrorBody::new(ErrorCode::InvalidCredentials, "The username or the password is wrong.")));
    let start = ClientLogin::<Suite>::start(&mut OsRng, password.as_bytes()).map_err(broken)?;
    let request = LoginStart { username: username.to_owned(), request: Blob::from(start.message.serialize().as_slice()) };
    let challenge: AuthChallenge = api.open_post("/v1/auth/login/start", &request).await?;
    let login_id = challenge.login_id.ok_or_else(|| broken("no login id"))?;
    let response = CredentialResponse::deserialize(challenge.response.as_slice()).map_err(broken)?;
    let secret = Zeroizing::new(password.to_owned());
    let state = start.state;
    let finalization = tokio::task::spawn_blocking(move || {
        let params = ClientLoginFinishParameters::new(Some(CONTEXT), Identifiers::default(), None);
        state.finish(&mut OsRng, secret.as_bytes(), response, params).map(|f| Blob::from(f.message.serialize().as_slice()))
    })
    .await
    .map_err(broken)?
    .map_err(|e: ProtocolError| if matches!(e, ProtocolError::InvalidLoginError) { wrong() } else { broken(e) })?;
    let proof = device.sign(&login_proof(&login_id, device.device_id));
    let finish = LoginFinish { login_id, finalization, device: new_device(device, device_name), proof: Blob::from(proof.as_slice()) };
    api.open_post("/v1/auth/login/finish", &finish).await
}

/// The account as a device that waits for approval knows it.
pub async fn pending_account(api: &Api, session: &Session, device: DeviceKeys) -> EngineResult<Account> {
    let server: ServerInfo = api.open_get("/v1/server").await?;
    Ok(Account {
        server: api.base().to_owned(),
        user: session.user_id,
        username: session.username.clone(),
        device,
        identity: None,
        server_key: server.external_sender.to_vec(),
    })
}

/// Asks whether the device was approved; the identity it was given must be the one the account shows in public.
pub async fn poll_link(api: &Api, account: &Account) -> EngineResult<Option<AccountIdentity>> {
    let own: sc_protocol::rest::OwnDevice = api.get("/v1/devices/self").await?;
    let Some(sealed) = own.sealed_identity.filter(|_| !own.pending) else { return Ok(None) };
    let info: UserInfo = api.get(&format!("/v1/users/{}", account.user)).await?;
    Ok(Some(AccountIdentity::open(&account.device, sealed.as_slice(), info.identity_key.as_slice())?))
}

/// The newest signed list of an account's own devices.
pub async fn own_list(api: &Api, own: &Own) -> EngineResult<DeviceList> {
    let identity = own.identity.as_ref().ok_or(EngineError::Locked("This device is not linked yet."))?;
    let info: UserInfo = api.get(&format!("/v1/users/{}", own.user)).await?;
    Ok(DeviceList::verify(info.device_list.as_slice(), &identity.public()).map_err(sc_e2ee::E2eeError::from)?)
}

/// A new identity (reset level 3): new account key, new device keys, nothing of the old ones signs them.
pub async fn new_identity(api: &Api, account: &Account, device_name: &str) -> EngineResult<Account> {
    let old: UserInfo = api.get(&format!("/v1/users/{}", account.user)).await?;
    // The version must follow; the old key may be lost, so the list is read without it.
    let version = DeviceList::verify(old.device_list.as_slice(), old.identity_key.as_slice()).map_err(sc_e2ee::E2eeError::from)?.version;
    let (identity, device) = (AccountIdentity::generate(&mut OsRng), DeviceKeys::generate(&mut OsRng));
    let list = DeviceList { user_id: account.user, version: version + 1, devices: vec![(device.device_id, device.public())] };
    let request = ResetIdentity {
        identity_key: blob32(&identity.public()),
        device_list: Blob::from(identity.sign_list(&list)),
        device: new_device(&device, device_name),
    };
    let _: Empty = api.post("/v1/identity/reset", &request).await?;
    Ok(Account { device, identity: Some(*identity.seed()), ..account.clone() })
}

/// Keeps enough one-time key packages on the server, and one of last resort per suite.
pub async fn refill_key_packages(db: &Db, api: &Api) -> EngineResult<()> {
    let counts: KeyPackageCount = api.get("/v1/key-packages").await?;
    for suite in [suite::HYBRID, suite::CLASSIC] {
        let left = counts.counts.iter().find(|(s, _)| *s == suite).map_or(0, |(_, n)| *n);
        if left > limits::KEY_PACKAGES_LOW {
            continue;
        }
        let first = left == 0;
        let mut missing = limits::KEY_PACKAGES.saturating_sub(left as usize);
        let mut last_resort = first;
        // In small parts, so that other work of the store comes in between.
        while missing > 0 || last_resort {
            let (n, last) = (missing.min(10), std::mem::take(&mut last_resort));
            missing -= n;
            let key_packages = db
                .write(move |cx| {
                    cx.with_context(|mls| {
                        let mut out = Vec::new();
                        for i in 0..n + usize::from(last) {
                            let last_resort = last && i == n;
                            out.push(KeyPackageUpload {
                                suite,
                                key_package: Blob::from(key_package(mls, suite, last_resort)?),
                                last_resort,
                            });
                        }
                        Ok(out)
                    })
                })
                .await?;
            let _: KeyPackageCount = api.post("/v1/key-packages", &UploadKeyPackages { key_packages, replace: false }).await?;
        }
    }
    Ok(())
}
