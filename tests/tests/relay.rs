//! Calls through relays: ours and coturn, over UDP, TCP and TLS; coturn's own client against ours; garbage.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use anyhow::{Context as _, Result, ensure};
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use sc_engine::call::{EndCause, FailCause, Input, Phase};
use sc_media::MediaOptions;
use sc_media::audio::{Input as From, Output as To};
use sc_media::transport::{IceServer, PathKind};
use sc_testkit::calls::{Pair, Side, options};
use sc_testkit::{World, until};
use sc_turn::credentials::{Credentials, issue};
use sc_turn::relay::Policy;
use sc_turn::server::{Listen, Server};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

const SECRET: &str = "north";

fn policy() -> Policy {
    Policy { realm: "here".into(), secret: SECRET.into(), allow_private: true, per_account: 20, allocations: 100, rate: 10_000_000 }
}

async fn relay(tls: Option<tokio_rustls::TlsAcceptor>) -> Result<Server> {
    let any: SocketAddr = "127.0.0.1:0".parse()?;
    Ok(Server::start(Listen { plain: any, tls: tls.map(|t| (any, t)), external: None }, policy(), [1; 32]).await?)
}

fn credentials() -> Credentials {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    issue(SECRET.as_bytes(), b"lan", i64::try_from(now).unwrap() + 600)
}

/// Only through relays at these addresses.
fn through(urls: &[String], tls: Option<Arc<ClientConfig>>) -> MediaOptions {
    let Credentials { username, password } = credentials();
    let server = IceServer { urls: urls.to_vec(), username, credential: password };
    let ice = move || {
        let servers = vec![server.clone()];
        Box::pin(async move { servers }) as std::pin::Pin<Box<dyn Future<Output = Vec<IceServer>> + Send>>
    };
    MediaOptions { ice: Arc::new(ice), tls, ..options() }
}

fn pair(options: &MediaOptions) -> Pair {
    let side = || Side::new(options.clone(), From::Silence, To::Nothing);
    let p = Pair::new(side(), side());
    p.sides.iter().for_each(|s| s.media.set_relay_only(true));
    p
}

async fn talks(p: &mut Pair) -> Result<()> {
    p.connect().await?;
    p.run(Duration::from_secs(10), |p| p.sides.iter().all(|s| s.media.quality().is_some_and(|q| q.heard.played > 60))).await?;
    p.pass(Duration::from_millis(1_200)).await?;
    for s in &p.sides {
        let q = s.media.quality().context("there is a call")?;
        ensure!(q.path.kind == PathKind::Relayed, "{q:?}");
        ensure!(q.heard.concealed < q.heard.played / 10, "{q:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_through_our_relay_by_udp_and_the_relay_dies() -> Result<()> {
    let server = relay(None).await?;
    let mut p = pair(&through(&[format!("turn:{}?transport=udp", server.plain)], None));
    talks(&mut p).await?;
    ensure!(server.allocations() >= 2 && server.relayed() > 100);
    drop(server);
    p.run(Duration::from_secs(10), |p| (0..2).all(|i| p.phase(i) == Some(Phase::Reconnecting))).await?;
    p.run(Duration::from_secs(40), |p| (0..2).all(|i| matches!(p.phase(i), Some(Phase::Ended(_))))).await?;
    assert_eq!(p.phase(0), Some(Phase::Ended(EndCause::Failed(FailCause::ConnectionLost))));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_udp_is_blocked_the_relay_is_reached_by_tcp() -> Result<()> {
    let server = relay(None).await?;
    let dead = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
    let urls = [format!("stun:{dead}"), format!("turn:{dead}?transport=udp"), format!("turn:{}?transport=tcp", server.plain)];
    let mut p = pair(&through(&urls, None));
    talks(&mut p).await?;
    p.hang_up().await?;
    // The streams end with the call, and their allocations with them.
    until("nothing is left", || async { Ok((server.allocations() == 0).then_some(())) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn where_only_the_web_passes_the_relay_is_reached_by_tls() -> Result<()> {
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(vec!["localhost".into()])?;
    let der: CertificateDer<'static> = cert.der().clone();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![der.clone()], key)?;
    let server = relay(Some(tokio_rustls::TlsAcceptor::from(Arc::new(config)))).await?;
    let mut roots = RootCertStore::empty();
    roots.add(der)?;
    let trusting = |roots| -> Result<_> {
        let b = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        Ok(Some(Arc::new(b.with_root_certificates(roots).with_no_client_auth())))
    };
    let url = format!("turns:localhost:{}?transport=tcp", server.tls.unwrap().port());
    talks(&mut pair(&through(std::slice::from_ref(&url), trusting(roots)?))).await?;
    // A certificate of nobody is not spoken to: no path, and nothing sent in the open.
    let mut p = pair(&through(&[url], trusting(RootCertStore::empty())?));
    p.ring().await?;
    p.input(1, Input::Accept { video: false })?;
    p.run(Duration::from_secs(30), |p| (0..2).all(|i| matches!(p.phase(i), Some(Phase::Ended(EndCause::Failed(FailCause::NoPath)))))).await
}

/// A program that ends with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> Result<u16> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_through_coturn() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let port = free_port()?;
    let mut command = Command::new("turnserver");
    command.args(["-n", "--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", "--use-auth-secret", "--realm=here", "--allow-loopback-peers"]);
    command.args(["--no-tls", "--no-dtls", "--no-cli", "--log-file=stdout", "--fingerprint"]);
    command.arg(format!("--static-auth-secret={SECRET}")).arg(format!("--listening-port={port}"));
    command.arg(format!("--pidfile={}", dir.path().join("pid").display())).arg(format!("--userdb={}", dir.path().join("db").display()));
    let _coturn =
        Program(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("coturn is installed by `cargo xtask test`")?);
    until("coturn listens", || async { Ok(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok().map(drop)) }).await?;
    for transport in ["udp", "tcp"] {
        talks(&mut pair(&through(&[format!("turn:127.0.0.1:{port}?transport={transport}")], None))).await.context(transport)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn coturns_client_loses_nothing_through_our_relay() -> Result<()> {
    let server = relay(None).await?;
    let peer = free_port()?;
    let mut echo = Command::new("turnutils_peer");
    echo.args(["-L", "127.0.0.1", "-p", &peer.to_string()]);
    let _echo = Program(echo.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("coturn is installed by `cargo xtask test`")?);
    let Credentials { username, password } = credentials();
    // UDP with channels, UDP with indications, TCP.
    for extra in [&[][..], &["-s"], &["-t"]] {
        let mut client = tokio::process::Command::new("turnutils_uclient");
        client.args(["-e", "127.0.0.1", "-r", &peer.to_string(), "-n", "200", "-m", "2", "-l", "170", "-z", "5", "-X", "-g", "-c"]);
        client.args(["-u", &username, "-w", &password, "-p", &server.plain.port().to_string()]).args(extra).arg("127.0.0.1");
        let out = tokio::time::timeout(Duration::from_secs(60), client.output()).await.context("uclient hangs")??;
        let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        ensure!(said.contains("Total lost packets 0"), "{extra:?}: {said}");
        ensure!(said.contains("tot_recv_msgs=400"), "{extra:?}: {said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_changes_nothing() -> Result<()> {
    let server = relay(None).await?;
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let udp = UdpSocket::bind("127.0.0.1:0")?;
    udp.connect(server.plain)?;
    let good = sc_turn::stun::Writer::new(sc_turn::stun::Class::Request, sc_turn::stun::method::ALLOCATE, &[7; 12]).fingerprinted();
    for i in 0..50_000 {
        let mut bytes = vec![0; rng.gen_range(0..200)];
        rng.fill_bytes(&mut bytes);
        if i % 2 == 0 {
            // Nearly right is worse than noise.
            bytes = good.clone();
            for _ in 0..3 {
                let at = rng.gen_range(0..bytes.len());
                bytes[at] = rng.r#gen();
            }
        }
        // The answer to the last one may have been refused.
        let _ = udp.send(&bytes);
    }
    for _ in 0..50 {
        let mut tcp = tokio::net::TcpStream::connect(server.plain).await?;
        let mut bytes = vec![0; 5_000];
        rng.fill_bytes(&mut bytes);
        let _ = tokio::io::AsyncWriteExt::write_all(&mut tcp, &bytes).await;
    }
    assert_eq!(server.allocations(), 0);
    talks(&mut pair(&through(&[format!("turn:{}?transport=udp", server.plain)], None))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_names_its_relay_to_members_only_and_refuses_the_inside() -> Result<()> {
    let world = World::new().await?;
    let alice = world.person("alice").await?;
    let found: sc_protocol::rest::IceServers = alice.engine.http()?.get("/v1/calls/ice-servers").await?;
    let port = world.server.as_ref().unwrap().app.turn.server.as_ref().unwrap().plain.port();
    let [stun, turn] = found.ice_servers.as_slice() else { panic!("{found:?}") };
    assert_eq!(stun.urls, [format!("stun:127.0.0.1:{port}")]);
    assert_eq!(turn.urls, [format!("turn:127.0.0.1:{port}?transport=udp"), format!("turn:127.0.0.1:{port}?transport=tcp")]);
    assert!(!turn.username.contains(&alice.id()?.to_string()) && !format!("{found:?}").contains(&turn.credential));
    let stranger = reqwest::get(format!("{}/v1/calls/ice-servers", world.url())).await?;
    assert_eq!(stranger.status(), 401);
    // The credentials are good, and this machine is not behind the relay: coturn's client is refused its peer.
    let mut client = tokio::process::Command::new("turnutils_uclient");
    client.args(["-e", "127.0.0.1", "-r", "9", "-n", "1", "-m", "1", "-X", "-g", "-c", "-u", &turn.username, "-w", &turn.credential]);
    client.args(["-p", &port.to_string(), "127.0.0.1"]);
    let out = tokio::time::timeout(Duration::from_secs(30), client.output()).await??;
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    ensure!(said.contains("403") && !out.status.success(), "{said}");
    let ready: serde_json::Value = reqwest::get(format!("{}/health/ready", world.url())).await?.json().await?;
    assert_eq!(ready["components"]["turn"], "healthy");
    Ok(())
}
