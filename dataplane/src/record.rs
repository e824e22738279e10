//! Records of bytes between one worker and control: punted packets, injected packets, captured packets.
//!
//! A single-producer single-consumer ring of bytes that holds whole records, each with its length in front. A record
//! that does not fit is refused, never cut.

use rtrb::{Consumer, Producer, RingBuffer};

/// The writing end.
pub struct RecordWriter {
    ring: Producer<u8>,
    fresh: bool,
}

/// The reading end.
pub struct RecordReader(Consumer<u8>);

const LENGTH: usize = 4;

/// A ring for `bytes` bytes of records and their lengths (4 bytes each).
pub fn record_ring(bytes: usize) -> (RecordWriter, RecordReader) {
    let (producer, consumer) = RingBuffer::new(bytes.max(64));
    (
        RecordWriter {
            ring: producer,
            fresh: false,
        },
        RecordReader(consumer),
    )
}

impl RecordWriter {
    /// Writes one record, `head` followed by `parts`; false, with nothing written, where the ring has no room for it.
    pub fn write<'a>(&mut self, head: &[u8], parts: impl IntoIterator<Item = &'a [u8]>) -> bool {
        let free = self.ring.slots();
        let Ok(mut chunk) = self.ring.write_chunk(free) else {
            return false;
        };
        let (first, second) = chunk.as_mut_slices();
        let mut at = LENGTH;
        let mut put = |bytes: &[u8]| {
            let end = at.saturating_add(bytes.len());
            if end > free {
                return false;
            }
            place(first, second, at, bytes);
            at = end;
            true
        };
        if !put(head) || !parts.into_iter().all(&mut put) {
            return false;
        }
        place(first, second, 0, &((at - LENGTH) as u32).to_ne_bytes());
        chunk.commit(at);
        self.fresh = true;
        true
    }

    /// True where a record was written since the last call.
    #[inline]
    pub fn take_fresh(&mut self) -> bool {
        std::mem::take(&mut self.fresh)
    }
}

/// Copies `bytes` to position `at` of two slices taken as one.
fn place(first: &mut [u8], second: &mut [u8], at: usize, bytes: &[u8]) {
    let split = first.len().saturating_sub(at).min(bytes.len());
    if split > 0 {
        first[at..at + split].copy_from_slice(&bytes[..split]);
    }
    let rest = &bytes[split..];
    if !rest.is_empty() {
        let start = (at + split) - first.len();
        second[start..start + rest.len()].copy_from_slice(rest);
    }
}

impl RecordReader {
    /// Replaces the contents of `out` by the next record; false where there is none.
    pub fn read(&mut self, out: &mut Vec<u8>) -> bool {
        out.clear();
        let mut length = [0; LENGTH];
        match self.0.read_chunk(LENGTH) {
            Ok(chunk) => {
                let (first, second) = chunk.as_slices();
                length[..first.len()].copy_from_slice(first);
                length[first.len()..].copy_from_slice(second);
            }
            Err(_) => return false,
        }
        let total = LENGTH + u32::from_ne_bytes(length) as usize;
        let Ok(chunk) = self.0.read_chunk(total) else {
            return false;
        };
        let (first, second) = chunk.as_slices();
        if first.len() > LENGTH {
            out.extend_from_slice(&first[LENGTH..]);
            out.extend_from_slice(second);
        } else {
            out.extend_from_slice(&second[LENGTH - first.len()..]);
        }
        chunk.commit_all();
        true
    }

    /// True where no record waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_that_does_not_fit_is_refused_whole() {
        let (mut writer, mut reader) = record_ring(64);
        assert!(!writer.write(b"head", [&[0u8; 60][..]]));
        assert!(writer.write(b"head", [&[1u8; 56][..]]));
        assert!(!writer.write(b"", []));
        let mut out = Vec::new();
        assert!(reader.read(&mut out) && out.len() == 60 && !reader.read(&mut out));
        assert!(writer.write(b"", []) && reader.read(&mut out) && out.is_empty());
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(records in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..40), any::<bool>()), 0..200)) {
            let (mut writer, mut reader) = record_ring(100);
            let (mut model, mut out) = (std::collections::VecDeque::new(), Vec::new());
            for (bytes, read_one) in records {
                let (head, tail) = bytes.split_at(bytes.len() / 2);
                if writer.write(head, [tail]) {
                    model.push_back(bytes);
                }
                if read_one {
                    prop_assert_eq!(reader.read(&mut out).then(|| out.clone()), model.pop_front());
                }
            }
            while let Some(bytes) = model.pop_front() {
                prop_assert!(reader.read(&mut out));
                prop_assert_eq!(&out, &bytes);
            }
            prop_assert!(reader.is_empty() && !reader.read(&mut out));
        }
    }
}
