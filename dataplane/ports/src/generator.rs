//! Packet generator: packets from templates, in which a few fields run through values, with right checksums.
//!
//! Buffers go round between the generator and the sinks of its worker ([`Recycler`]): the working set is 1024 buffers unless
//! said otherwise, as if a network card's rings held them. A buffer that comes back needs its headers written again, not its
//! payload. Budget: 15 ticks per packet of 64 bytes with one running field.

mod layout;

use std::fmt;
use std::sync::Arc;

use dataplane::{Buffers, DATA_SIZE, Descriptor, FRAME_SIZE, Frame, Queue, Rng};

use crate::sink::{Check, Recycler, SinkCounters, SinkQueue, renew};
use layout::{Layout, Sum, fold};

/// Buffers that a generator works with unless said otherwise.
pub const WORKING_SET: usize = 1024;
/// Bytes at the front of a packet in which fields can run.
pub const FIELD_REACH: usize = LONG_HEAD - STORE;

const SHORT_HEAD: usize = 64;
const LONG_HEAD: usize = 128;
/// Bytes that a field's value is stored with: its own, and behind them the template's.
const STORE: usize = 4;
/// Descriptors that are prefetched ahead of their packet's making.
const AHEAD: usize = 8;
/// Buffers whose payload is remembered.
const BODIES: usize = 4096;

/// What a generator makes.
#[derive(Clone, Debug)]
pub struct GeneratorConfig {
    /// The packets, at least one.
    pub templates: Vec<Template>,
    /// Sets the IPv4 header's and the layer-4 checksums (UDP, TCP, ICMP, ICMPv6; a UDP checksum of 0 over IPv4 stays 0).
    pub checksums: bool,
    /// Decides about every [`Values::Random`] field: the same packets come for the same seed, whatever the bursts.
    pub seed: u64,
    /// Buffers in the ring between generator and sinks.
    pub working_set: usize,
    /// Ends after so many packets.
    pub limit: Option<u64>,
    /// Writes payloads again each time: for graphs that change them (encryption).
    pub whole: bool,
}

impl GeneratorConfig {
    /// Checksums on, seed 1, a working set of [`WORKING_SET`] buffers, no end.
    pub fn new(templates: Vec<Template>) -> Self {
        Self {
            templates,
            checksums: true,
            seed: 1,
            working_set: WORKING_SET,
            limit: None,
            whole: false,
        }
    }
}

/// A packet, and the fields of it that change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Template {
    /// The frame, from the Ethernet header on; up to [`DATA_SIZE`] bytes.
    pub bytes: Vec<u8>,
    /// Its changing fields.
    pub fields: Vec<Field>,
    /// How often it is on its turn in relation to the other templates, 1 to 1000.
    pub weight: u16,
}

impl Template {
    /// The frame as it is.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            fields: Vec::new(),
            weight: 1,
        }
    }

    /// With one more field.
    #[must_use]
    pub fn field(mut self, offset: u16, width: u8, values: Values) -> Self {
        self.fields.push(Field {
            offset,
            width,
            values,
        });
        self
    }
}

/// A field that takes a new value in each packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Field {
    /// Bytes from the start of the frame.
    pub offset: u16,
    /// Bytes that it has, 1 to 4, most significant first.
    pub width: u8,
    /// What it holds.
    pub values: Values,
}

/// The values of a field.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Values {
    /// Always the same.
    Fixed(u32),
    /// From `first` on in steps, not beyond `last`, then from `first` again.
    Increment {
        /// The first value.
        first: u32,
        /// The highest possible value.
        last: u32,
        /// Distance of one value from the next, at least 1.
        step: u32,
    },
    /// Uniformly at random.
    Random {
        /// The lowest value.
        first: u32,
        /// The highest value.
        last: u32,
    },
    /// One after the other, then from the first again: any distribution that was worked out before.
    List(Vec<u32>),
}

/// Why a generator cannot be made.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum GeneratorError {
    /// There is no template.
    NoTemplate,
    /// A template is wrong.
    Template {
        /// Its index.
        template: usize,
        /// What is wrong.
        problem: String,
    },
    /// A field of a template is wrong.
    Field {
        /// The template's index.
        template: usize,
        /// The field's index.
        field: usize,
        /// What is wrong.
        problem: String,
    },
}

impl fmt::Display for GeneratorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTemplate => f.write_str("the generator has no template: give at least one"),
            Self::Template { template, problem } => write!(f, "templates[{template}]: {problem}"),
            Self::Field {
                template,
                field,
                problem,
            } => write!(f, "templates[{template}].fields[{field}]: {problem}"),
        }
    }
}

impl std::error::Error for GeneratorError {}

/// A queue that receives what a [`GeneratorConfig`] describes, and is a sink for what is sent.
pub struct GeneratorQueue {
    plans: Vec<Plan>,
    /// Indices of plans, in the order in which they are on their turn.
    order: Box<[u16]>,
    turn: usize,
    /// The plans of the packets being made.
    turns: Box<[u16; FRAME_SIZE]>,
    left: u64,
    recycler: Recycler,
    sink: SinkQueue,
    /// Whose payload a buffer holds: buffer number and plan, found by the number's last bits.
    bodies: Box<[(u32, u32)]>,
}

impl GeneratorQueue {
    /// Checks the templates and works out what can be worked out beforehand.
    ///
    /// # Errors
    /// [`GeneratorError`] names the template or field that is wrong.
    pub fn new(config: &GeneratorConfig) -> Result<Self, GeneratorError> {
        if config.templates.is_empty() {
            return Err(GeneratorError::NoTemplate);
        }
        let plans = config
            .templates
            .iter()
            .enumerate()
            .map(|(index, template)| Plan::new(index, template, config))
            .collect::<Result<Vec<_>, _>>()?;
        let recycler = Recycler::new(config.working_set);
        Ok(Self {
            plans,
            order: order(&config.templates),
            turn: 0,
            turns: Box::new([0; FRAME_SIZE]),
            left: config.limit.unwrap_or(u64::MAX),
            sink: SinkQueue::new().recycling(&recycler),
            recycler,
            bodies: vec![(u32::MAX, 0); BODIES].into(),
        })
    }

    /// Calls `check` with each packet that is sent.
    #[must_use]
    pub fn checking(mut self, check: Check) -> Self {
        self.sink = self.sink.checking(check);
        self
    }

    /// The ring of buffers, for further sinks of the same worker.
    pub fn recycler(&self) -> &Recycler {
        &self.recycler
    }

    /// Counters of what was sent, to be kept while the queue is with its worker.
    pub fn sink_counters(&self) -> Arc<SinkCounters> {
        self.sink.sink_counters()
    }

    /// True when the limit is reached.
    pub fn is_done(&self) -> bool {
        self.left == 0
    }

    /// Decides which plan each of the next packets follows, and lets the plans prepare.
    fn take_turns(&mut self, count: usize) {
        for turn in &mut self.turns[..count] {
            *turn = self.order[self.turn];
            self.turn = if self.turn + 1 == self.order.len() {
                0
            } else {
                self.turn + 1
            };
        }
        for (index, plan) in self.plans.iter_mut().enumerate() {
            let share = self.turns[..count]
                .iter()
                .filter(|turn| usize::from(**turn) == index);
            plan.prepare(share.count());
        }
    }
}

impl Queue for GeneratorQueue {
    fn rx(&mut self, frame: &mut Frame, max: usize, buffers: &mut Buffers) -> usize {
        let wanted = max.min(frame.room()).min(self.left as usize);
        let begin = frame.len();
        // All descriptors are moved first and changed where they lie then: a move right behind a change of a part would wait
        // for the store.
        let known = self.recycler.lock().give_out(frame, wanted, buffers);
        while frame.len() < begin + wanted {
            let Some(packet) = buffers.alloc() else { break };
            if let Err(packet) = frame.push(packet) {
                buffers.free(packet);
                break;
            }
        }
        let packets = &mut frame.packets_mut()[begin..];
        let count = packets.len();
        if let [plan] = &mut self.plans[..] {
            plan.prepare(count);
        } else {
            self.take_turns(count);
        }
        for index in 0..count {
            if let Some(ahead) = packets.get(index + AHEAD) {
                buffers.prefetch(ahead);
            }
            let plan_index = match self.plans.len() {
                1 => 0,
                _ => usize::from(self.turns[index]),
            };
            let (packet, plan) = (&mut packets[index], &mut self.plans[plan_index]);
            plan.make(packet, buffers);
            if plan.marks {
                let body = &mut self.bodies[packet.buffer_index() as usize % BODIES];
                let mark = (packet.buffer_index(), plan_index as u32);
                if *body != mark || index >= known || plan.whole {
                    *body = mark;
                    plan.write_body(packet, buffers);
                }
            }
        }
        self.left -= count as u64;
        count
    }

    #[inline]
    fn tx(&mut self, packets: &mut [Descriptor], buffers: &mut Buffers) -> usize {
        self.sink.tx(packets, buffers)
    }

    fn flush(&mut self, _: &mut Buffers) {}
}

/// A template made ready. A burst's values and checksums are worked out field by field, which the compiler turns into vector
/// instructions; then packet by packet they are written.
struct Plan {
    /// The frame's front, with fixed fields set and running fields and checksums zero.
    head: [u8; LONG_HEAD],
    long_head: bool,
    /// Length of the frame.
    length: usize,
    /// By offset, since the store of one reaches into the next.
    cursors: Box<[Cursor]>,
    ip: Option<Closing>,
    layer4: Option<Closing>,
    /// The next of the prepared packets.
    next: usize,
    /// It writes behind the first [`SHORT_HEAD`] bytes, where a payload that is still right would lie.
    marks: bool,
    whole: bool,
    bytes: Box<[u8]>,
}

/// A checksum field to be closed.
struct Closing {
    at: usize,
    /// Sum of what does not change, folded.
    base: u32,
    /// A sum of 0 is stored as 0xffff (RFC 768).
    udp: bool,
    sums: Box<[u32; FRAME_SIZE]>,
}

impl Closing {
    #[inline(always)]
    fn store(&self, index: usize, front: &mut [u8; LONG_HEAD]) {
        let sum = self.sums[index] as u16;
        if let Some(field) = front.get_mut(self.at..self.at + 2) {
            field.copy_from_slice(&sum.to_be_bytes());
        }
    }
}

struct Cursor {
    at: usize,
    /// Bits between the value and the end of what is stored, and what is stored there.
    behind: u32,
    tail: u32,
    /// The field begins or ends in the middle of a 16-bit word of the checksum.
    odd: bool,
    in_ip: bool,
    in_layer4: bool,
    run: Run,
    values: Box<[u32; FRAME_SIZE]>,
}

enum Run {
    Increment {
        next: u32,
        first: u32,
        last: u32,
        step: u32,
    },
    Random {
        first: u32,
        span: u64,
        rng: Rng,
    },
    List {
        values: Box<[u32]>,
        at: usize,
    },
}

impl Run {
    /// The next values.
    fn fill(&mut self, out: &mut [u32]) {
        match self {
            Self::Increment {
                next,
                first,
                last,
                step,
            } => {
                for out in out {
                    *out = *next;
                    let (after, over) = next.overflowing_add(*step);
                    *next = if over || after > *last { *first } else { after };
                }
            }
            Self::Random { first, span, rng } => {
                for out in out {
                    // By multiplication; the span may be 2^32.
                    *out = *first + ((u64::from(rng.next_u32()) * *span) >> 32) as u32;
                }
            }
            Self::List { values, at } => {
                for out in out {
                    *out = values[*at];
                    *at = if *at + 1 == values.len() { 0 } else { *at + 1 };
                }
            }
        }
    }
}

impl Plan {
    fn new(
        index: usize,
        template: &Template,
        config: &GeneratorConfig,
    ) -> Result<Self, GeneratorError> {
        let wrong = |problem: String| GeneratorError::Template {
            template: index,
            problem,
        };
        if !(14..=DATA_SIZE).contains(&template.bytes.len()) {
            return Err(wrong(format!(
                "{} bytes is not a frame of 14 to {DATA_SIZE}",
                template.bytes.len()
            )));
        }
        if !(1..=1000).contains(&template.weight) {
            return Err(wrong(format!(
                "weight {} is not in 1 to 1000",
                template.weight
            )));
        }
        let layout = if config.checksums {
            Layout::of(&template.bytes)
        } else {
            Layout::default()
        };
        let mut bytes = template.bytes.clone();
        let mut cursors = Vec::new();
        for (number, field) in template.fields.iter().enumerate() {
            let seed = config.seed ^ ((index as u64) << 32 | (number as u64) << 16);
            let cursor = Cursor::new(field, &bytes, &layout, seed).map_err(|problem| {
                GeneratorError::Field {
                    template: index,
                    field: number,
                    problem,
                }
            })?;
            let (at, width) = (usize::from(field.offset), usize::from(field.width));
            bytes[at..at + width].fill(0);
            match (cursor, &field.values) {
                (Some(cursor), _) => cursors.push(cursor),
                (None, Values::Fixed(value)) => {
                    bytes[at..at + width].copy_from_slice(&value.to_be_bytes()[4 - width..]);
                }
                (None, _) => {}
            }
        }
        let mut close = |sum: &Option<Sum>| {
            sum.as_ref().map(|sum| {
                bytes[sum.at..sum.at + 2].fill(0);
                Closing {
                    at: sum.at,
                    base: u32::from(fold(sum.over(&bytes))),
                    udp: sum.udp,
                    sums: Box::new([0; FRAME_SIZE]),
                }
            })
        };
        let (layer4, ip) = (close(&layout.layer4), close(&layout.ip));
        // Everything in the headers is written each time, since nodes may have changed it.
        let long_head = layout.headers.is_none_or(|headers| headers > SHORT_HEAD)
            || cursors.iter().any(|cursor| cursor.at + STORE > SHORT_HEAD);
        let mut head = [0; LONG_HEAD];
        let known = bytes.len().min(LONG_HEAD);
        head[..known].copy_from_slice(&bytes[..known]);
        cursors.sort_by_key(|cursor| cursor.at);
        for cursor in &mut cursors {
            let stored: [u8; STORE] = std::array::from_fn(|i| head[cursor.at + i]);
            cursor.tail = u32::from_be_bytes(stored) & !(u32::MAX << cursor.behind);
        }
        Ok(Self {
            head,
            long_head: long_head && bytes.len() > SHORT_HEAD,
            length: bytes.len(),
            cursors: cursors.into(),
            ip,
            layer4,
            next: 0,
            marks: bytes.len() > SHORT_HEAD,
            whole: config.whole,
            bytes: bytes.into(),
        })
    }

    /// Works out the values and checksums of the next `count` packets.
    fn prepare(&mut self, count: usize) {
        self.next = 0;
        for closing in [&mut self.ip, &mut self.layer4].into_iter().flatten() {
            closing.sums[..count].fill(closing.base);
        }
        for cursor in &mut self.cursors {
            cursor.run.fill(&mut cursor.values[..count]);
            for (closing, under) in [
                (&mut self.ip, cursor.in_ip),
                (&mut self.layer4, cursor.in_layer4),
            ] {
                let Some(closing) = closing.as_mut().filter(|_| under) else {
                    continue;
                };
                let sums = closing.sums[..count]
                    .iter_mut()
                    .zip(&cursor.values[..count]);
                if cursor.odd {
                    sums.for_each(|(sum, value)| {
                        *sum += ((value << 8) & 0xffff) + ((value >> 8) & 0xffff) + (value >> 24);
                    });
                } else {
                    sums.for_each(|(sum, value)| *sum += (value & 0xffff) + (value >> 16));
                }
            }
        }
        for closing in [&mut self.ip, &mut self.layer4].into_iter().flatten() {
            let zero = if closing.udp { 0xffff } else { 0 };
            for sum in &mut closing.sums[..count] {
                let folded = (*sum & 0xffff) + (*sum >> 16);
                let folded = (folded & 0xffff) + (folded >> 16);
                let closed = !folded & 0xffff;
                *sum = if closed == 0 { zero } else { closed };
            }
        }
    }

    /// Makes the front of the next prepared packet in a buffer. A buffer of another pool becomes an empty packet.
    #[inline(always)]
    fn make(&mut self, packet: &mut Descriptor, buffers: &Buffers) {
        let index = self.next % FRAME_SIZE;
        self.next += 1;
        renew(packet, self.length);
        // There is room for at least this behind the data's start, and the bytes behind the packet are nobody's.
        let _ = packet.extend(LONG_HEAD.saturating_sub(self.length));
        let Some(front) = buffers.head_mut::<LONG_HEAD>(packet) else {
            packet.truncate(0);
            return;
        };
        if self.long_head {
            *front = self.head;
        } else {
            front[..SHORT_HEAD].copy_from_slice(&self.head[..SHORT_HEAD]);
        }
        for cursor in &self.cursors {
            let value = (cursor.values[index] << cursor.behind) | cursor.tail;
            if let Some(field) = front.get_mut(cursor.at..cursor.at + STORE) {
                field.copy_from_slice(&value.to_be_bytes());
            }
        }
        if let Some(closing) = &self.ip {
            closing.store(index, front);
        }
        if let Some(closing) = &self.layer4 {
            closing.store(index, front);
        }
        packet.truncate(self.length);
    }

    /// Writes what is behind the front.
    #[cold]
    fn write_body(&self, packet: &mut Descriptor, buffers: &Buffers) {
        let front = if self.long_head {
            LONG_HEAD
        } else {
            SHORT_HEAD
        };
        if let Some(body) = buffers.bytes_mut(packet).get_mut(front..) {
            body.copy_from_slice(&self.bytes[front..]);
        }
    }
}

impl Cursor {
    /// A cursor for a field that runs, none for one that stands still; or what is wrong with it.
    fn new(
        field: &Field,
        bytes: &[u8],
        layout: &Layout,
        seed: u64,
    ) -> Result<Option<Self>, String> {
        let (at, width) = (usize::from(field.offset), usize::from(field.width));
        if !(1..=4).contains(&width) {
            return Err(format!("width {width} is not in 1 to 4"));
        }
        let reach = bytes.len().min(FIELD_REACH);
        if at + width > reach {
            return Err(format!(
                "bytes {at} to {} are not all among the frame's first {reach}",
                at + width - 1
            ));
        }
        let highest = u32::MAX >> (32 - 8 * width as u32);
        let fits = |value: u32| {
            (value <= highest)
                .then_some(())
                .ok_or_else(|| format!("value {value} does not fit {width} bytes"))
        };
        let run = match &field.values {
            Values::Fixed(value) => {
                fits(*value)?;
                None
            }
            Values::Increment { first, last, step } => {
                fits(*last)?;
                if first > last || *step == 0 {
                    return Err(format!("nothing runs from {first} to {last} by {step}"));
                }
                Some(Run::Increment {
                    next: *first,
                    first: *first,
                    last: *last,
                    step: *step,
                })
            }
            Values::Random { first, last } => {
                fits(*last)?;
                if first > last {
                    return Err(format!("there is no value from {first} to {last}"));
                }
                Some(Run::Random {
                    first: *first,
                    span: u64::from(last - first) + 1,
                    rng: Rng::from_seed(seed),
                })
            }
            Values::List(values) => {
                values.iter().try_for_each(|value| fits(*value))?;
                if values.is_empty() {
                    return Err("the list is empty".into());
                }
                Some(Run::List {
                    values: values.as_slice().into(),
                    at: 0,
                })
            }
        };
        let (in_ip, in_layer4) = layout.place(at..at + width)?;
        Ok(run.map(|run| Self {
            at,
            behind: 8 * (STORE - width) as u32,
            tail: 0,
            // Checksummed ranges begin at even offsets of the frame: Ethernet and tags have an even length.
            odd: !(at + width).is_multiple_of(2),
            in_ip,
            in_layer4,
            run,
            values: Box::new([0; FRAME_SIZE]),
        }))
    }
}

/// The templates' indices, each as often as its weight says, spread evenly: at each step the template that is furthest behind
/// its share.
fn order(templates: &[Template]) -> Box<[u16]> {
    let total: usize = templates.iter().map(|t| usize::from(t.weight)).sum();
    let mut credit = vec![0i64; templates.len()];
    (0..total)
        .map(|_| {
            for (credit, template) in credit.iter_mut().zip(templates) {
                *credit += i64::from(template.weight);
            }
            let first = (0..credit.len())
                .max_by_key(|index| (credit[*index], usize::MAX - index))
                .unwrap_or(0);
            credit[first] -= total as i64;
            first as u16
        })
        .collect()
}

#[cfg(test)]
mod tests;
