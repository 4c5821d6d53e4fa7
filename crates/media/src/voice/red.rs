//! Redundant audio (RFC 2198): a packet carries the frames before it once more.

/// Most earlier frames in a packet.
pub const COPIES: usize = 2;
/// Blocks that are read from a packet.
const BLOCKS: usize = 8;

/// Writes `primary` with earlier frames, oldest first, each with its distance in samples. Those that do not fit the format
/// (14 bits of distance, 10 of length) are left out.
#[must_use]
pub fn pack(payload_type: u8, earlier: &[(u32, &[u8])], primary: &[u8]) -> Vec<u8> {
    let fits = |(distance, data): &&(u32, &[u8])| *distance < 1 << 14 && data.len() < 1 << 10;
    let mut out = Vec::with_capacity(primary.len() + earlier.iter().map(|(_, d)| d.len() + 4).sum::<usize>() + 1);
    for (distance, data) in earlier.iter().filter(fits) {
        let len = u32::try_from(data.len()).unwrap_or(0);
        let header = 1 << 31 | u32::from(payload_type & 0x7f) << 24 | distance << 10 | len;
        out.extend_from_slice(&header.to_be_bytes());
    }
    out.push(payload_type & 0x7f);
    for (_, data) in earlier.iter().filter(fits) {
        out.extend_from_slice(data);
    }
    out.extend_from_slice(primary);
    out
}

/// The frames of a packet with their distances in samples, oldest first, the primary one last; `None` when it is malformed.
#[must_use]
pub fn unpack(packet: &[u8]) -> Option<Vec<(u32, &[u8])>> {
    let mut headers = Vec::new();
    let mut rest = packet;
    loop {
        let (first, tail) = rest.split_first()?;
        if first & 0x80 == 0 {
            rest = tail;
            break;
        }
        let (head, tail) = rest.split_first_chunk::<4>()?;
        let word = u32::from_be_bytes(*head);
        headers.push(((word >> 10) & 0x3fff, (word & 0x3ff) as usize));
        rest = tail;
        if headers.len() > BLOCKS {
            return None;
        }
    }
    let mut blocks = Vec::with_capacity(headers.len() + 1);
    for (distance, len) in headers {
        let (data, tail) = rest.split_at_checked(len)?;
        blocks.push((distance, data));
        rest = tail;
    }
    blocks.push((0, rest));
    Some(blocks)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_encoding_is_that_of_the_rfc() {
        let bytes = pack(111, &[(960, &[1, 2, 3])], &[9]);
        assert_eq!(bytes, [0x80 | 111, 0x0f, 0x00, 0x03, 111, 1, 2, 3, 9]);
    }

    #[test]
    fn what_does_not_fit_the_format_is_left_out() {
        let long = vec![0; 1024];
        assert_eq!(pack(111, &[(960, &long), (1 << 14, &[1])], &[7]), [111, 7]);
    }

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked(a in proptest::collection::vec(any::<u8>(), 0..1000), b in proptest::collection::vec(any::<u8>(), 0..1000)) {
            let packet = pack(111, &[(1920, &a), (960, &b)], &a);
            prop_assert_eq!(unpack(&packet).unwrap(), vec![(1920, a.as_slice()), (960, b.as_slice()), (0, a.as_slice())]);
        }

        #[test]
        fn garbage_is_refused_or_read_within_its_bounds(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(blocks) = unpack(&bytes) {
                prop_assert!(blocks.iter().map(|(_, d)| d.len()).sum::<usize>() < bytes.len());
            }
        }
    }
}
