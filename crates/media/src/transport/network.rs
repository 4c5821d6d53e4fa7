//! This machine's addresses, and when they change.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// Addresses that others may reach, now.
#[must_use]
pub fn addresses() -> BTreeSet<IpAddr> {
    let all = rtc::shared::ifaces::ifaces().unwrap_or_else(|cause| {
        tracing::warn!(%cause, "the network interfaces could not be listed");
        Vec::new()
    });
    all.into_iter().filter_map(|i| i.addr).map(|a| a.ip()).filter(|a| is_useful(*a)).collect()
}

fn is_useful(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(a) => !a.is_loopback() && !a.is_link_local() && !a.is_unspecified(),
        IpAddr::V6(a) => !a.is_loopback() && !a.is_unicast_link_local() && !a.is_unspecified(),
    }
}

/// What to bind: every useful address; the loopback one when there is no other, so that a machine without a network can call
/// itself.
#[must_use]
pub fn bind() -> Vec<String> {
    let found = addresses();
    if found.is_empty() {
        return vec!["127.0.0.1:0".into()];
    }
    let wildcards = [("0.0.0.0:0", found.iter().any(IpAddr::is_ipv4)), ("[::]:0", found.iter().any(IpAddr::is_ipv6))];
    wildcards.into_iter().filter(|(_, any)| *any).map(|(a, _)| a.to_owned()).collect()
}

/// True when the network is another one: an address that was in use is gone, or there is one where there was none.
#[must_use]
pub fn changed(before: &BTreeSet<IpAddr>, now: &BTreeSet<IpAddr>) -> bool {
    before.difference(now).next().is_some() || (before.is_empty() && !now.is_empty())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_new_address_beside_the_old_one_is_no_change() {
        let set = |list: &[&str]| list.iter().map(|a| a.parse().unwrap()).collect::<BTreeSet<IpAddr>>();
        assert!(!changed(&set(&["10.0.0.1"]), &set(&["10.0.0.1", "10.0.0.2"])));
        assert!(changed(&set(&["10.0.0.1"]), &set(&["10.0.0.2"])));
        assert!(changed(&set(&[]), &set(&["10.0.0.2"])));
        assert!(!changed(&set(&[]), &set(&[])));
    }
}
