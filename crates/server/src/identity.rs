//! Checks of identity data that clients upload; the clients check again.

use crate::error::{ApiError, ApiResult};
use sc_protocol::identity::DeviceList;
use sc_protocol::{DeviceId, ErrorCode, UserId};

fn invalid(message: &str) -> ApiError {
    ApiError::new(ErrorCode::InvalidIdentity, message)
}

/// A device list that verifies, belongs to the account and follows `last_version`.
pub fn check_list(bytes: &[u8], identity_key: &[u8], user: UserId, last_version: u64) -> ApiResult<DeviceList> {
    let list = DeviceList::verify(bytes, identity_key).map_err(|e| invalid(&e.to_string()))?;
    if list.user_id != user {
        return Err(invalid("The device list belongs to another account."));
    }
    if list.version != last_version + 1 {
        return Err(ApiError::new(ErrorCode::Conflict, "The device list has changed in the meantime. Fetch it and try again."));
    }
    Ok(list)
}

/// The list names the device with that key.
pub fn check_listed(list: &DeviceList, device: DeviceId, key: &[u8]) -> ApiResult<()> {
    match list.key_of(device) {
        Some(k) if k.as_slice() == key => Ok(()),
        _ => Err(invalid("The device list does not name the device with its key.")),
    }
}

/// An Ed25519 or X25519 public key has 32 bytes.
pub fn check_key(key: &[u8]) -> ApiResult<()> {
    if key.len() == 32 { Ok(()) } else { Err(ApiError::bad("A public key has 32 bytes.")) }
}
