//! What the unit itself reads of a session description (RFC 8866): which section carries which track.

use std::collections::HashMap;

/// One section of media.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Section {
    /// RFC 5888.
    pub(crate) mid: String,
    /// `audio`, `video` or `application`.
    pub(crate) kind: String,
    /// Track id of `a=msid` (RFC 8830).
    pub(crate) track: Option<String>,
    /// Layers in `a=rid` (RFC 8851), in their order.
    pub(crate) rids: Vec<String>,
    /// The other side sends.
    pub(crate) sends: bool,
}

/// Sections and layers beyond this are not read.
const SECTIONS: usize = 128;
const RIDS: usize = 4;

/// The sections of a description.
pub(crate) fn sections(sdp: &str) -> Vec<Section> {
    let mut out: Vec<Section> = Vec::new();
    for line in sdp.lines() {
        if let Some(m) = line.strip_prefix("m=") {
            if out.len() >= SECTIONS {
                break;
            }
            let mut words = m.split(' ');
            let kind = words.next().unwrap_or_default().to_owned();
            let sends = words.next() != Some("0");
            out.push(Section { kind, sends, ..Section::default() });
            continue;
        }
        let Some(section) = out.last_mut() else { continue };
        if let Some(mid) = line.strip_prefix("a=mid:") {
            mid.trim().clone_into(&mut section.mid);
        } else if let Some(msid) = line.strip_prefix("a=msid:") {
            section.track = msid.split_whitespace().nth(1).map(str::to_owned);
        } else if let Some(rid) = line.strip_prefix("a=rid:") {
            let mut words = rid.split_whitespace();
            if let (Some(id), Some("send")) = (words.next(), words.next())
                && section.rids.len() < RIDS
            {
                section.rids.push(id.to_owned());
            }
        } else if matches!(line.trim(), "a=inactive" | "a=recvonly") {
            section.sends = false;
        }
    }
    out
}

/// Every payload type is a number of RTP's and names one codec in the whole description: what is not so makes str0m panic.
pub(crate) fn numbers_are_sane(sdp: &str) -> bool {
    let mut seen: HashMap<u8, String> = HashMap::new();
    let mut apt: HashMap<String, String> = HashMap::new();
    let codecs = sdp.lines().filter_map(|l| l.strip_prefix("a=rtpmap:")).all(|l| {
        let Some((n, codec)) = l.trim().split_once(' ') else { return false };
        let (Ok(n), codec) = (n.parse::<u8>(), codec.to_ascii_lowercase()) else { return false };
        n < 128 && *seen.entry(n).or_insert_with(|| codec.clone()) == codec
    });
    // A retransmission stream belongs to one codec.
    codecs
        && sdp.lines().filter_map(|l| l.strip_prefix("a=fmtp:")).all(|l| {
            let Some((n, parameters)) = l.trim().split_once(' ') else { return true };
            let Some(of) = parameters.split(';').find_map(|p| p.trim().strip_prefix("apt=")) else { return true };
            *apt.entry(n.to_owned()).or_insert_with(|| of.to_owned()) == of
        })
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_names_two_codecs_is_refused() {
        assert!(numbers_are_sane("a=rtpmap:111 opus/48000/2\r\na=rtpmap:96 VP8/90000\r\na=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n"));
        assert!(!numbers_are_sane("a=rtpmap:111 opus/48000/2\r\na=rtpmap:111 VP8/90000\r\n"));
        assert!(!numbers_are_sane("a=rtpmap:200 opus/48000/2\r\n"));
        assert!(!numbers_are_sane("a=fmtp:97 apt=96\r\na=fmtp:97 apt=98\r\n"));
    }

    #[test]
    fn sections_with_their_tracks_and_layers() {
        let s = sections(
            "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=msid:- abc\r\na=sendonly\r\nm=video 9 x 96\r\na=mid:1\r\na=rid:q send\r\na=rid:h send\r\na=msid:s t\r\nm=video 0 x 96\r\na=mid:2\r\nm=audio 9 x 111\r\na=mid:3\r\na=inactive\r\n",
        );
        assert_eq!(s.len(), 4);
        assert_eq!((s[0].mid.as_str(), s[0].track.as_deref(), s[0].sends), ("0", Some("abc"), true));
        assert_eq!(s[1].rids, ["q", "h"]);
        assert!(!s[2].sends && !s[3].sends);
    }
}
