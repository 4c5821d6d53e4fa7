//! Registration, login, linking, new identities, key packages. The password is used here and goes nowhere.

use crate::api::Api;
use crate::core::{Cx, Db, MlsRows, Own, certificate};
use crate::{EngineError, EngineResult};
use opaque_ke::errors::ProtocolError;
use opaque_ke::{
    ClientLogin, ClientLoginFinishParameters, ClientRegistration, ClientRegistrationFinishParameters, CredentialResponse, Identifiers,
    RegistrationResponse,
};
use rand::rngs::OsRng;
use sc_e2ee::group::{Context, Crypto, key_package};
use sc_e2ee::identity::{AccountIdentity, DeviceKeys};
use sc_e2ee::kv::{KvStorage, ScratchStore};
use sc_protocol::identity::DeviceList;
use sc_protocol::opaque::{CONTEXT, Suite};
use sc_protocol::rest::{
    AuthChallenge, Empty, KeyPackageCount, KeyPackageUpload, LoginFinish, LoginStart, NewDevice, RegisterFinish, RegisterStart,
    ResetIdentity, ServerInfo, Session, UploadKeyPackages, UserInfo, login_proof,
};
use sc_protocol::{Blob, ErrorBody, ErrorCode, UnixMillis, UserId, limits, suite};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// When the key packages on the server were made.
const PACKAGES_AT: &str = "key_packages_at";
/// Age at which all of them are made anew.
const PACKAGE_AGE_MS: i64 = 30 * 86_400_000;

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
    /// The account identity key the server showed when this device asked to be linked; the code covers it.
    #[serde(default)]
    pub expected_identity: Option<[u8; 32]>,
    /// Seed of the account identity, once the device is linked.
    pub identity: Option<Zeroizing<[u8; 32]>>,
    /// Public identity keys this account had before: their leaves are still in groups until somebody removes them.
    #[serde(default)]
    pub former: Vec<[u8; 32]>,
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
        let identity = self.identity.as_ref().map(|s| AccountIdentity::from_seed(s));
        let certificate = identity.as_ref().map(|i| certificate(i, self.user, &self.device)).unwrap_or_default();
        Own {
            user: self.user,
            username: self.username.clone(),
            device: self.device.clone(),
            certificate,
            identity,
            former: self.former.clone(),
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

/// An identity with its first device, made here and not yet taken by the server. It is stored before it is posted: an
/// answer that is lost must not cost the account.
#[derive(Clone, Serialize, Deserialize)]
pub struct Prepared {
    /// The account as it will be.
    pub account: Account,
    key_packages: Vec<KeyPackageUpload>,
    /// Private halves of the key packages.
    #[serde(with = "secret_bytes")]
    scratch: Zeroizing<Vec<u8>>,
    /// When the key packages were made; they expire.
    #[serde(default)]
    made: UnixMillis,
}

/// Bytes that are wiped when they are let go.
mod secret_bytes {
    use serde::{Deserialize as _, Deserializer, Serializer};
    use zeroize::Zeroizing;

    pub(super) fn serialize<S: Serializer>(v: &Zeroizing<Vec<u8>>, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(v)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Zeroizing<Vec<u8>>, D::Error> {
        serde_bytes::ByteBuf::deserialize(d).map(|b| Zeroizing::new(b.into_vec()))
    }
}

impl Prepared {
    /// With new key packages; private halves made before stay in `kept`.
    fn new(crypto: &Crypto, account: Account, kept: ScratchStore) -> EngineResult<Self> {
        let own = account.own();
        let storage = KvStorage(kept);
        let cx = Context { crypto, storage: &storage, device: &own.device, certificate: &own.certificate };
        let mut key_packages = Vec::new();
        for suite in [suite::HYBRID, suite::CLASSIC] {
            for last_resort in [true, false, false] {
                key_packages.push(KeyPackageUpload { suite, key_package: Blob::from(key_package(&cx, suite, last_resort)?), last_resort });
            }
        }
        let scratch = Zeroizing::new(storage.0.to_bytes().map_err(sc_e2ee::E2eeError::mls)?);
        Ok(Self { account, key_packages, scratch, made: crate::now_ms() })
    }

    /// The same account and device; with new key packages when those it has grow too old to be taken. The private halves of
    /// the old ones stay: the server may have taken those and only its answer was lost.
    pub fn renewed(self, crypto: &Crypto) -> EngineResult<Self> {
        if (crate::now_ms() - self.made).abs() < PACKAGE_AGE_MS {
            return Ok(self);
        }
        let kept = ScratchStore::from_bytes(&self.scratch).map_err(sc_e2ee::E2eeError::mls)?;
        Self::new(crypto, self.account, kept)
    }

    /// A new account.
    pub async fn account(crypto: &Crypto, api: &Api, username: &str) -> EngineResult<Self> {
        let server: ServerInfo = api.open_get("/v1/server").await?;
        let account = Account {
            server: api.base().to_owned(),
            user: UserId::generate(),
            username: username.to_owned(),
            device: DeviceKeys::generate(&mut OsRng),
            expected_identity: None,
            identity: Some(AccountIdentity::generate(&mut OsRng).seed()),
            former: Vec::new(),
            server_key: server.external_sender.to_vec(),
        };
        Self::new(crypto, account, ScratchStore::default())
    }

    /// A new identity for an account (reset level 3): nothing of the old keys signs the new ones.
    pub fn identity(crypto: &Crypto, account: &Account) -> EngineResult<Self> {
        let (identity, device) = (AccountIdentity::generate(&mut OsRng), DeviceKeys::generate(&mut OsRng));
        let former =
            account.former.iter().copied().chain(account.identity.as_ref().map(|s| AccountIdentity::from_seed(s).public())).collect();
        Self::new(crypto, Account { device, identity: Some(identity.seed()), former, ..account.clone() }, ScratchStore::default())
    }

    /// Puts the private halves of the key packages where a Welcome finds them.
    pub fn install(&self, cx: &Cx<'_>) -> EngineResult<()> {
        let scratch = ScratchStore::from_bytes(&self.scratch).map_err(sc_e2ee::E2eeError::mls)?;
        Ok(scratch.install(&MlsRows(cx.w)).map_err(sc_e2ee::E2eeError::mls)?)
    }

    fn device_list(&self, version: u64) -> EngineResult<(Blob, AccountIdentity)> {
        let a = &self.account;
        let identity =
            a.identity.as_ref().map(|s| AccountIdentity::from_seed(s)).ok_or(EngineError::Locked("No identity was prepared."))?;
        let list = DeviceList { user_id: a.user, version, devices: vec![(a.device.device_id, a.device.public())] };
        Ok((Blob::from(identity.sign_list(&list)), identity))
    }
}

/// Checks what a registration is asked to use.
pub fn check_credentials(username: &str, password: &str) -> EngineResult<()> {
    check_name(username)?;
    if password.chars().count() < 8 {
        return Err(EngineError::invalid("WEAK_PASSWORD", "A password has at least 8 characters."));
    }
    Ok(())
}

/// Makes a prepared account.
pub async fn register(api: &Api, prepared: &Prepared, password: &str, device_name: &str) -> EngineResult<Session> {
    let username = &prepared.account.username;
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
    let (device_list, identity) = prepared.device_list(1)?;
    let finish = RegisterFinish {
        username: username.to_owned(),
        upload,
        user_id: prepared.account.user,
        identity_key: blob32(&identity.public()),
        device: new_device(&prepared.account.device, device_name),
        device_list,
        key_packages: prepared.key_packages.clone(),
    };
    api.open_post("/v1/auth/register/finish", &finish).await
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
    let info: UserInfo = api.get(&format!("/v1/users/{}", session.user_id)).await?;
    let expected = info.identity_key.as_slice().try_into().map_err(|_| broken("identity key"))?;
    Ok(Account {
        expected_identity: Some(expected),
        server: api.base().to_owned(),
        user: session.user_id,
        username: session.username.clone(),
        device,
        identity: None,
        former: Vec::new(),
        server_key: server.external_sender.to_vec(),
    })
}

/// Asks whether the device was approved; the identity it was given must be the one the account shows in public.
pub async fn poll_link(api: &Api, account: &Account) -> EngineResult<Option<AccountIdentity>> {
    let own: sc_protocol::rest::OwnDevice = api.get("/v1/devices/self").await?;
    let Some(sealed) = own.sealed_identity.filter(|_| !own.pending) else { return Ok(None) };
    let expected = account.expected_identity.ok_or(EngineError::Locked("This device did not ask to be linked."))?;
    Ok(Some(AccountIdentity::open(&account.device, sealed.as_slice(), &expected)?))
}

/// The newest signed list of an account's own devices.
pub async fn own_list(api: &Api, own: &Own) -> EngineResult<DeviceList> {
    let identity = own.identity.as_ref().ok_or(EngineError::Locked("This device is not linked yet."))?;
    let info: UserInfo = api.get(&format!("/v1/users/{}", own.user)).await?;
    Ok(DeviceList::verify(info.device_list.as_slice(), &identity.public()).map_err(sc_e2ee::E2eeError::from)?)
}

/// Makes the server use a prepared identity. When the server has it already, that is fine: an answer was lost.
pub async fn post_identity(api: &Api, prepared: &Prepared, device_name: &str) -> EngineResult<()> {
    let account = &prepared.account;
    let old: UserInfo = api.get(&format!("/v1/users/{}", account.user)).await?;
    // The version must follow; the old key may be lost, so the list is read without it.
    let version = DeviceList::verify(old.device_list.as_slice(), old.identity_key.as_slice()).map_err(sc_e2ee::E2eeError::from)?.version;
    let (device_list, identity) = prepared.device_list(version + 1)?;
    if old.identity_key.as_slice() == identity.public() {
        return Ok(());
    }
    let request = ResetIdentity {
        identity_key: blob32(&identity.public()),
        device_list,
        device: new_device(&account.device, device_name),
        key_packages: prepared.key_packages.clone(),
    };
    let _: Empty = api.post("/v1/identity/reset", &request).await?;
    Ok(())
}

/// Keeps enough one-time key packages on the server, and one of last resort per suite.
pub async fn refill_key_packages(db: &Db, api: &Api) -> EngineResult<()> {
    let made = db.write(|cx| Ok(cx.r().meta(PACKAGES_AT)?.and_then(|b| b.try_into().ok().map(i64::from_be_bytes)).unwrap_or(0))).await?;
    let now = crate::now_ms();
    // They expire after 60 days; the whole set is renewed in time.
    let renew = made != 0 && now - made > PACKAGE_AGE_MS;
    let counts: KeyPackageCount = if renew {
        api.post("/v1/key-packages", &UploadKeyPackages { key_packages: Vec::new(), replace: true }).await?
    } else {
        api.get("/v1/key-packages").await?
    };
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
    if renew || made == 0 {
        db.write(move |cx| Ok(cx.w.set_meta(PACKAGES_AT, &now.to_be_bytes())?)).await?;
    }
    Ok(())
}
