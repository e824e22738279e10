//! Capture files in the classic format, and queues that replay and write them.
//!
//! ```text
//! file:    magic 4 │ version 2+2 │ zone 4 │ accuracy 4 │ longest record 4 │ link type 4
//! record:  seconds 4 │ micro- or nanoseconds 4 │ bytes stored 4 │ bytes on the wire 4 │ the stored bytes
//! ```
//!
//! The magic's byte order is the file's; it also says the unit of the fraction. Source: draft-ietf-opsawg-pcap. Files of the newer
//! pcapng format are refused by name.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use dataplane::{Buffers, Descriptor, Frame, MAX_PACKET, Queue, QueueCounters};

const MAGIC_MICROS: u32 = 0xa1b2_c3d4;
const MAGIC_NANOS: u32 = 0xa1b2_3c4d;
const MAGIC_PCAPNG: u32 = 0x0a0d_0d0a;
const LINK_ETHERNET: u32 = 1;
const SECOND: u64 = 1_000_000_000;

/// One packet of a capture file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PcapRecord {
    /// Nanoseconds since 1970-01-01, or since whatever the writer began to count at.
    pub time_ns: u64,
    /// Bytes that the packet had on the wire: more than there are in `bytes` where it was cut.
    pub wire_length: u32,
    /// The frame, from the Ethernet header on.
    pub bytes: Vec<u8>,
}

/// Why a capture file could not be read.
#[derive(Debug)]
#[non_exhaustive]
pub enum PcapError {
    /// The operating system says no.
    Io(io::Error),
    /// It does not begin like a capture file; the first four bytes are given.
    NotPcap([u8; 4]),
    /// It is in the pcapng format.
    Pcapng,
    /// Its packets are not Ethernet frames; the link type is given.
    LinkType(u32),
    /// It ends inside a header or record: the number of whole records in front of that.
    Cut {
        /// Whole records.
        records: u64,
    },
    /// A record says that it is longer than any packet.
    TooLong {
        /// Whole records in front of it.
        records: u64,
        /// Its length in bytes.
        length: u32,
    },
    /// There is no packet in it to replay.
    Empty,
}

impl fmt::Display for PcapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "cannot read the capture file: {error}"),
            Self::NotPcap(bytes) => {
                write!(
                    f,
                    "not a capture file: it begins with the bytes {bytes:02x?}"
                )
            }
            Self::Pcapng => f.write_str(
                "the capture file is in pcapng format; convert it with: editcap -F nsecpcap IN OUT",
            ),
            Self::LinkType(kind) => write!(
                f,
                "the capture file holds packets of link type {kind}, not Ethernet frames (1)"
            ),
            Self::Cut { records } => {
                write!(
                    f,
                    "the capture file ends inside a record, after {records} whole ones"
                )
            }
            Self::TooLong { records, length } => write!(
                f,
                "the capture file is damaged: record {} says it has {length} bytes, more than {MAX_PACKET}",
                records + 1
            ),
            Self::Empty => f.write_str("the capture file holds no packet to replay"),
        }
    }
}

impl std::error::Error for PcapError {}

impl From<io::Error> for PcapError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Reads the records of a capture file one by one; an iterator that ends at the end of the file or at the first error.
pub struct PcapRecords<R> {
    input: R,
    little_endian: bool,
    nanos: bool,
    records: u64,
    failed: bool,
}

impl<R: Read> PcapRecords<R> {
    /// Reads the file's header.
    ///
    /// # Errors
    /// [`PcapError`], where it is not a capture file of Ethernet frames.
    pub fn new(mut input: R) -> Result<Self, PcapError> {
        let mut header = [0; 24];
        let got = fill(&mut input, &mut header)?;
        let mut first = [0; 4];
        first.copy_from_slice(&header[..4]);
        let (little, big) = (u32::from_le_bytes(first), u32::from_be_bytes(first));
        let (little_endian, magic) = match (little, big) {
            (MAGIC_MICROS | MAGIC_NANOS, _) => (true, little),
            (_, MAGIC_MICROS | MAGIC_NANOS) => (false, big),
            (MAGIC_PCAPNG, _) => return Err(PcapError::Pcapng),
            _ => return Err(PcapError::NotPcap(first)),
        };
        if got < header.len() {
            return Err(PcapError::Cut { records: 0 });
        }
        // The upper bits say how long the frame check sequence is, if it is there.
        let link = word(&header, 20, little_endian) & 0x0fff_ffff;
        if link != LINK_ETHERNET {
            return Err(PcapError::LinkType(link));
        }
        Ok(Self {
            input,
            little_endian,
            nanos: magic == MAGIC_NANOS,
            records: 0,
            failed: false,
        })
    }

    fn read(&mut self) -> Result<Option<PcapRecord>, PcapError> {
        let records = self.records;
        let mut header = [0; 16];
        match fill(&mut self.input, &mut header)? {
            0 => return Ok(None),
            16 => {}
            _ => return Err(PcapError::Cut { records }),
        }
        let [seconds, fraction, stored, wire_length] =
            [0, 4, 8, 12].map(|at| word(&header, at, self.little_endian));
        if stored as usize > MAX_PACKET {
            return Err(PcapError::TooLong {
                records,
                length: stored,
            });
        }
        let mut bytes = vec![0; stored as usize];
        if fill(&mut self.input, &mut bytes)? < bytes.len() {
            return Err(PcapError::Cut { records });
        }
        self.records += 1;
        let unit = if self.nanos { 1 } else { 1000 };
        Ok(Some(PcapRecord {
            time_ns: u64::from(seconds) * SECOND + u64::from(fraction) * unit,
            wire_length,
            bytes,
        }))
    }
}

impl<R: Read> Iterator for PcapRecords<R> {
    type Item = Result<PcapRecord, PcapError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let result = self.read().transpose();
        self.failed = !matches!(result, Some(Ok(_)));
        result
    }
}

/// Reads a whole capture file.
///
/// # Errors
/// As [`PcapRecords::new`] and its items.
pub fn read_pcap(path: &Path) -> Result<Vec<PcapRecord>, PcapError> {
    PcapRecords::new(BufReader::new(File::open(path)?))?.collect()
}

/// Writes a capture file with nanoseconds, in the machine's byte order.
pub struct PcapFile<W: Write> {
    output: W,
}

impl PcapFile<BufWriter<File>> {
    /// Makes (or empties) the file at `path`.
    ///
    /// # Errors
    /// The operating system's.
    pub fn create(path: &Path) -> io::Result<Self> {
        Self::new(BufWriter::new(File::create(path)?))
    }
}

impl<W: Write> PcapFile<W> {
    /// Writes the file's header.
    ///
    /// # Errors
    /// The output's.
    pub fn new(mut output: W) -> io::Result<Self> {
        let mut header = [0; 24];
        header[..4].copy_from_slice(&MAGIC_NANOS.to_ne_bytes());
        header[4..6].copy_from_slice(&2u16.to_ne_bytes());
        header[6..8].copy_from_slice(&4u16.to_ne_bytes());
        header[16..20].copy_from_slice(&(MAX_PACKET as u32).to_ne_bytes());
        header[20..24].copy_from_slice(&LINK_ETHERNET.to_ne_bytes());
        output.write_all(&header)?;
        Ok(Self { output })
    }

    /// Writes a packet: `bytes` of it are kept, it had `wire_length` (at least as many). Seconds beyond 2106 wrap, as the format
    /// has 32 bits for them.
    ///
    /// # Errors
    /// The output's.
    pub fn write(&mut self, time_ns: u64, wire_length: u32, bytes: &[u8]) -> io::Result<()> {
        self.begin(time_ns, wire_length, bytes.len())?;
        self.output.write_all(bytes)
    }

    /// Hands everything to the operating system.
    ///
    /// # Errors
    /// The output's.
    pub fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    /// The output, with everything written.
    ///
    /// # Errors
    /// The output's.
    pub fn finish(mut self) -> io::Result<W> {
        self.output.flush()?;
        Ok(self.output)
    }

    fn begin(&mut self, time_ns: u64, wire_length: u32, stored: usize) -> io::Result<()> {
        let fields = [
            (time_ns / SECOND) as u32,
            (time_ns % SECOND) as u32,
            stored as u32,
            wire_length.max(stored as u32),
        ];
        let mut header = [0; 16];
        for (to, field) in header.chunks_exact_mut(4).zip(fields) {
            to.copy_from_slice(&field.to_ne_bytes());
        }
        self.output.write_all(&header)
    }
}

/// A queue that receives the packets of a capture file, as fast as it is asked, and sends nowhere.
pub struct PcapReader {
    packets: Vec<Vec<u8>>,
    at: usize,
    repeat: bool,
    counters: QueueCounters,
}

impl PcapReader {
    /// Loads the file. With `repeat`, it begins again at its end.
    ///
    /// # Errors
    /// [`PcapError`]; also for a file without packets, from which nothing would ever come.
    pub fn open(path: &Path, repeat: bool) -> Result<Self, PcapError> {
        Self::new(read_pcap(path)?, repeat)
    }

    /// Replays records.
    ///
    /// # Errors
    /// [`PcapError::Empty`] where there are none.
    pub fn new(records: Vec<PcapRecord>, repeat: bool) -> Result<Self, PcapError> {
        let packets: Vec<_> = records.into_iter().map(|record| record.bytes).collect();
        if packets.is_empty() {
            return Err(PcapError::Empty);
        }
        Ok(Self {
            packets,
            at: 0,
            repeat,
            counters: QueueCounters::default(),
        })
    }

    /// True when every packet was received (never with `repeat`).
    pub fn is_done(&self) -> bool {
        !self.repeat && self.at == self.packets.len()
    }
}

impl Queue for PcapReader {
    fn rx(&mut self, frame: &mut Frame, max: usize, buffers: &mut Buffers) -> usize {
        let room = max.min(frame.room());
        for count in 0..room {
            if self.repeat && self.at == self.packets.len() {
                self.at = 0;
            }
            let Some(bytes) = self.packets.get(self.at) else {
                return count;
            };
            // Without a free buffer, the packet is on its turn again later: a file has time.
            let Some(packet) = buffers.copy_from(bytes) else {
                return count;
            };
            self.at += 1;
            if let Err(packet) = frame.push(packet) {
                buffers.free(packet);
                return count;
            }
        }
        room
    }

    fn tx(&mut self, packets: &mut [Descriptor], buffers: &mut Buffers) -> usize {
        self.counters.tx_failed += packets.len() as u64;
        buffers.free_all(packets);
        packets.len()
    }

    fn flush(&mut self, _: &mut Buffers) {}

    fn counters(&self) -> QueueCounters {
        self.counters
    }
}

/// A queue that writes what is sent to a capture file, and receives nothing. Packets that cannot be written count as
/// `tx_failed`.
pub struct PcapWriter<W: Write + Send> {
    file: PcapFile<W>,
    now_ns: Box<dyn FnMut() -> u64 + Send>,
    counters: QueueCounters,
}

impl PcapWriter<BufWriter<File>> {
    /// Makes (or empties) the file at `path`; `now_ns` gives each packet its time.
    ///
    /// # Errors
    /// The operating system's, with the path.
    pub fn create(path: &Path, now_ns: impl FnMut() -> u64 + Send + 'static) -> io::Result<Self> {
        let file = PcapFile::create(path).map_err(|error| {
            let path: PathBuf = path.into();
            io::Error::new(
                error.kind(),
                format!("cannot write {}: {error}", path.display()),
            )
        })?;
        Ok(Self::new(file, now_ns))
    }
}

impl<W: Write + Send> PcapWriter<W> {
    /// Writes to a file; `now_ns` gives each packet its time.
    pub fn new(file: PcapFile<W>, now_ns: impl FnMut() -> u64 + Send + 'static) -> Self {
        Self {
            file,
            now_ns: Box::new(now_ns),
            counters: QueueCounters::default(),
        }
    }

    /// The file.
    pub fn into_file(self) -> PcapFile<W> {
        self.file
    }
}

impl<W: Write + Send> Queue for PcapWriter<W> {
    fn rx(&mut self, _: &mut Frame, _: usize, _: &mut Buffers) -> usize {
        0
    }

    fn tx(&mut self, packets: &mut [Descriptor], buffers: &mut Buffers) -> usize {
        for slot in packets.iter_mut() {
            let packet = slot.take();
            let length = buffers.total_length(&packet);
            let time_ns = (self.now_ns)();
            let mut written = self.file.begin(time_ns, length as u32, length);
            for segment in buffers.segments(&packet) {
                written = written.and_then(|()| self.file.output.write_all(segment));
            }
            self.counters.tx_failed += u64::from(written.is_err());
            buffers.free(packet);
        }
        packets.len()
    }

    fn flush(&mut self, _: &mut Buffers) {
        // What fails here fails again at the next packet, where it is counted.
        let _ = self.file.flush();
    }

    fn counters(&self) -> QueueCounters {
        self.counters
    }
}

/// Reads until `out` is full or the input ends; returns how many bytes.
fn fill(input: &mut impl Read, out: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < out.len() {
        match input.read(&mut out[done..]) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

fn word(bytes: &[u8], at: usize, little_endian: bool) -> u32 {
    let word = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
    if little_endian {
        u32::from_le_bytes(word)
    } else {
        u32::from_be_bytes(word)
    }
}

#[cfg(test)]
mod tests {
    use dataplane::{Pages, Pool};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_byte_orders_and_units_are_read() {
        for (nanos, big) in [(false, false), (false, true), (true, false), (true, true)] {
            let put = |value: u32| {
                if big {
                    value.to_be_bytes()
                } else {
                    value.to_le_bytes()
                }
            };
            let magic = if nanos { MAGIC_NANOS } else { MAGIC_MICROS };
            let words = [magic, 0, 0, 0, 65_535, LINK_ETHERNET, 7, 9, 3, 60];
            let mut file: Vec<u8> = words.into_iter().flat_map(put).collect();
            file.extend([1, 2, 3]);
            let records: Vec<_> = PcapRecords::new(&file[..])
                .expect("header")
                .map(|r| r.expect("record"))
                .collect();
            let fraction = if nanos { 9 } else { 9000 };
            let expected = PcapRecord {
                time_ns: 7 * SECOND + fraction,
                wire_length: 60,
                bytes: vec![1, 2, 3],
            };
            assert_eq!(records, [expected]);
            let cut: Vec<_> = PcapRecords::new(&file[..file.len() - 1])
                .expect("header")
                .collect();
            assert!(
                matches!(cut[..], [Err(PcapError::Cut { records: 0 })]),
                "{cut:?}"
            );
        }
    }

    #[test]
    fn other_files_are_refused_by_name() {
        let read = |bytes: &[u8]| {
            PcapRecords::new(bytes)
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default()
        };
        assert!(read(b"\x0a\x0d\x0d\x0arest").contains("pcapng"));
        assert!(read(b"hello, world, how are you").contains("[68, 65, 6c, 6c]"));
        assert!(read(b"").contains("not a capture file"));
        let mut wifi = [MAGIC_NANOS, 0, 0, 0, 0, 105]
            .map(u32::to_le_bytes)
            .concat();
        assert!(read(&wifi).contains("link type 105"));
        wifi[20] = 1;
        wifi.extend([0, 0, 0x10_0000, 0].map(u32::to_le_bytes).concat());
        let damaged: Vec<_> = PcapRecords::new(&wifi[..]).expect("header").collect();
        assert!(matches!(
            damaged[..],
            [Err(PcapError::TooLong {
                length: 0x10_0000,
                ..
            })]
        ));
        assert!(matches!(
            PcapReader::new(Vec::new(), true),
            Err(PcapError::Empty)
        ));
    }

    #[test]
    fn queues_write_and_replay_files() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("a.pcap");
        let pool = Pool::new(64, Pages::Transparent).expect("memory");
        let mut buffers = pool.cache();
        let sent: Vec<Vec<u8>> = [60, 1514, 9000]
            .map(|n| (0..n).map(|i| i as u8).collect())
            .into();
        {
            let mut time = 0;
            let mut writer = PcapWriter::create(&path, move || {
                time += 5 * SECOND / 4;
                time
            })
            .expect("file");
            let mut packets: Vec<_> = sent
                .iter()
                .map(|bytes| buffers.copy_from(bytes).expect("buffers"))
                .collect();
            assert_eq!(writer.tx(&mut packets, &mut buffers), 3);
            writer.flush(&mut buffers);
            assert_eq!(writer.counters(), QueueCounters::default());
        }
        let records = read_pcap(&path).expect("our own file");
        assert_eq!(records[2].time_ns, 15 * SECOND / 4);
        let mut reader = PcapReader::open(&path, true).expect("our own file");
        let mut frame = Frame::new();
        assert_eq!(reader.rx(&mut frame, 5, &mut buffers), 5);
        for (packet, bytes) in frame.packets().iter().zip(sent.iter().cycle()) {
            assert_eq!(
                &buffers.segments(packet).collect::<Vec<_>>().concat(),
                bytes
            );
        }
        buffers.free_all(frame.packets_mut());
        let mut once = PcapReader::open(&path, false).expect("our own file");
        let mut frame = Frame::new();
        assert_eq!(
            (once.rx(&mut frame, 256, &mut buffers), once.is_done()),
            (3, true)
        );
        buffers.free_all(frame.packets_mut());
        drop(buffers);
        pool.audit().expect("balanced");
        let missing = PcapReader::open(&folder.path().join("none"), false)
            .err()
            .map(|e| e.to_string());
        assert!(missing.is_some_and(|text| text.contains("No such file")));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_end_in_records_or_an_error(tail: Vec<u8>, magic in 0usize..5) {
            let mut file = match magic {
                0 => Vec::new(),
                1 => MAGIC_NANOS.to_le_bytes().to_vec(),
                _ => [[MAGIC_NANOS, MAGIC_MICROS][magic % 2], 0, 0, 0, 0, LINK_ETHERNET].map(u32::to_be_bytes).concat(),
            };
            file.extend(&tail);
            if let Ok(records) = PcapRecords::new(&file[..]) {
                let read: usize = records.map_while(Result::ok).map(|record| 16 + record.bytes.len()).sum();
                prop_assert!(24 + read <= file.len());
            }
        }

        #[test]
        fn what_is_written_is_read(records in proptest::collection::vec((0u64..u64::from(u32::MAX) * SECOND, 0u32..100_000, any::<Vec<u8>>()), 0..20)) {
            let mut file = PcapFile::new(Vec::new()).expect("memory");
            for (time, length, bytes) in &records {
                file.write(*time, *length, bytes).expect("memory");
            }
            let file = file.finish().expect("memory");
            let read: Result<Vec<_>, _> = PcapRecords::new(&file[..]).expect("header").collect();
            let expected: Vec<_> = records.into_iter().map(|(time_ns, length, bytes)| PcapRecord { time_ns, wire_length: length.max(bytes.len() as u32), bytes }).collect();
            prop_assert_eq!(read.expect("records"), expected);
        }
    }
}
