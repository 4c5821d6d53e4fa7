//! Janus, started and spoken to over its HTTP interface.

use super::Target;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Janus with its video room and nothing else.
pub(super) struct Janus {
    child: Child,
    /// Its configuration, gone with it.
    _folder: tempfile::TempDir,
    session: u64,
    handle: u64,
}

const PORT: u16 = 18_088;

impl Janus {
    /// `loops`: event loops; nought for a thread for each connection, as it comes.
    pub(super) fn start(interface: &str, loops: usize) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let at = folder.path().display().to_string();
        let plugins = "/usr/lib/x86_64-linux-gnu/janus";
        let others = "audiobridge duktape echotest lua nosip recordplay sip streaming textroom videocall voicemail";
        let disabled = others.split(' ').map(|p| format!("libjanus_{p}.so")).collect::<Vec<_>>().join(",");
        let general = format!(
            "general: {{ configs_folder = \"{at}\" plugins_folder = \"{plugins}/plugins\" transports_folder = \"{plugins}/transports\" events_folder = \"{plugins}/events\" loggers_folder = \"{plugins}/loggers\" debug_level = 2 session_timeout = 0 {} }}\nmedia: {{ rtp_port_range = \"40000-49999\" }}\nnat: {{ ice_lite = true ice_enforce_list = \"{interface}\" }}\nplugins: {{ disable = \"{disabled}\" }}\ntransports: {{ disable = \"libjanus_mqtt.so,libjanus_nanomsg.so,libjanus_pfunix.so,libjanus_rabbitmq.so,libjanus_websockets.so\" }}\nloggers: {{ disable = \"libjanus_jsonlog.so\" }}\nevents: {{ broadcast = false }}\n",
            if loops > 0 { format!("event_loops = {loops}") } else { String::new() }
        );
        std::fs::write(folder.path().join("janus.jcfg"), general)?;
        std::fs::write(folder.path().join("janus.plugin.videoroom.jcfg"), "general: { events = false }\n")?;
        std::fs::write(
            folder.path().join("janus.transport.http.jcfg"),
            format!(
                "general: {{ events = false json = \"compact\" base_path = \"/janus\" http = true port = {PORT} ip = \"127.0.0.1\" https = false mhd_connection_limit = 4000 }}\nadmin: {{ admin_http = false }}\n"
            ),
        )?;
        let child = Command::new("taskset")
            .args(["-c", "0", "janus", "-F", &at, "-C"])
            .arg(folder.path().join("janus.jcfg"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut this = Self { child, _folder: folder, session: 0, handle: 0 };
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", PORT)).is_err() {
            ensure!(Instant::now() < deadline, "Janus did not start");
            std::thread::sleep(Duration::from_millis(100));
        }
        this.session = id(&http("POST", "/janus", Some(json!({"janus": "create", "transaction": "t"})))?)?;
        Ok(this)
    }

    fn post(&self, path: &str, mut body: Value) -> Result<Value> {
        if let Some(o) = body.as_object_mut() {
            o.insert("transaction".into(), "t".into());
        }
        let answer = http("POST", &format!("/janus/{}{path}", self.session), Some(body))?;
        ensure!(answer.get("janus") != Some(&"error".into()), "Janus refused: {answer}");
        Ok(answer)
    }

    fn attach(&mut self) -> Result<()> {
        self.handle = id(&self.post("", json!({"janus": "attach", "plugin": "janus.plugin.videoroom"}))?)?;
        Ok(())
    }

    fn call(&self, body: Value, jsep: Option<Value>) -> Result<Value> {
        let mut message = json!({"janus": "message", "body": body});
        if let (Some(j), Some(o)) = (jsep, message.as_object_mut()) {
            o.insert("jsep".into(), j);
        }
        self.post(&format!("/{}", self.handle), message)?;
        loop {
            let event = http("GET", &format!("/janus/{}", self.session), None)?;
            if event.get("janus") == Some(&"event".into()) && event.get("sender") == Some(&self.handle.into()) {
                ensure!(event.pointer("/plugindata/data/error").is_none(), "Janus refused: {event}");
                return Ok(event);
            }
        }
    }
}

fn sdp_of(event: &Value) -> Result<String> {
    Ok(event.pointer("/jsep/sdp").and_then(Value::as_str).context("no description")?.to_owned())
}

fn id(v: &Value) -> Result<u64> {
    v.pointer("/data/id").and_then(Value::as_u64).context("no id")
}

fn http(method: &str, path: &str, body: Option<Value>) -> Result<Value> {
    let mut s = TcpStream::connect(("127.0.0.1", PORT))?;
    let b = body.map(|v| v.to_string()).unwrap_or_default();
    write!(s, "{method} {path} HTTP/1.0\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{b}", b.len())?;
    let mut r = String::new();
    s.read_to_string(&mut r)?;
    Ok(serde_json::from_str(r.split_once("\r\n\r\n").context("no answer")?.1)?)
}

impl Target for Janus {
    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn publish(&mut self, room: usize, _: &str, offer: &str) -> Result<String> {
        self.attach()?;
        // Its numbers begin with one.
        let room = room + 1;
        let create = json!({"request": "create", "room": room, "publishers": 10, "bitrate": 0, "videocodec": "vp8", "fir_freq": 0, "transport_wide_cc_ext": false});
        self.post(&format!("/{}", self.handle), json!({"janus": "message", "body": create}))?;
        let join = json!({"request": "joinandconfigure", "room": room, "ptype": "publisher", "id": 1});
        sdp_of(&self.call(join, Some(json!({"type": "offer", "sdp": offer})))?)
    }

    fn subscribe(&mut self, room: usize) -> Result<String> {
        self.attach()?;
        let join = json!({"request": "join", "room": room + 1, "ptype": "subscriber", "streams": [{"feed": 1}]});
        sdp_of(&self.call(join, None)?)
    }

    fn answer(&mut self, sdp: &str) -> Result<()> {
        self.call(json!({"request": "start"}), Some(json!({"type": "answer", "sdp": sdp}))).map(|_| ())
    }
}

impl Drop for Janus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
