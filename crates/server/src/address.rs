//! Where a request comes from, for limits. Never logged.

use crate::App;
use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The network a request comes from: an IPv4 address, or the /64 of an IPv6 one, which is what one household has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(IpAddr);

impl Network {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(a) => {
                let s = a.segments();
                Self(IpAddr::V6(Ipv6Addr::new(s[0], s[1], s[2], s[3], 0, 0, 0, 0)))
            }
            v4 => Self(v4),
        }
    }

    /// The name of its bucket.
    #[must_use]
    pub fn bucket(&self) -> String {
        format!("address {}", self.0)
    }
}

/// The last entry of `X-Forwarded-For`: what our own proxy has written; those before it are the client's to invent.
fn forwarded(parts: &Parts) -> Option<IpAddr> {
    let last = parts.headers.get_all("x-forwarded-for").iter().next_back()?.to_str().ok()?;
    last.rsplit(',').next()?.trim().parse().ok()
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl FromRequestParts<App> for Network {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Self::Rejection> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |c| c.0.ip());
        let told = forwarded(parts);
        if told.is_some() && !app.config.behind_proxy && peer.is_loopback() {
            static ONCE: std::sync::Once = std::sync::Once::new();
            ONCE.call_once(|| {
                tracing::warn!("a proxy forwards to this server: set behind_proxy, or everybody shares one limit of log-ins")
            });
        }
        Ok(Self::of(told.filter(|_| app.config.behind_proxy).unwrap_or(peer)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_household_is_one_network() {
        let of = |s: &str| Network::of(s.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::5"), of("2001:db8:1:2:ffff::1"));
        assert_ne!(of("2001:db8:1:2::5"), of("2001:db8:1:3::5"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.2"), of("192.0.2.1"));
    }

    #[test]
    fn of_forwarded_addresses_only_the_proxys_own_counts() {
        let parts = |value: &str| axum::http::Request::builder().header("x-forwarded-for", value).body(()).unwrap().into_parts().0;
        assert_eq!(forwarded(&parts("198.51.100.9, 192.0.2.1")), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(forwarded(&parts("nonsense")), None);
    }
}
