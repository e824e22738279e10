//! Packet generator: packets from templates, in which a few fields run through values, with right checksums.
//!
//! Buffers go round between the generator and the sinks of its worker ([`Recycler`]): the working set is 1024 buffers unless
//! said otherwise, as if a network card's rings held them. A buffer that comes back needs its headers written again, not its
//! payload. Budget: 15 ticks per packet of 64 bytes with one running field.

mod layout;

use std::fmt;
use std::sync::Arc;

use dataplane::{Buffers, DATA_SIZE, Descriptor, Frame, Queue, Rng};

use crate::sink::{Check, Recycler, SinkCounters, SinkQueue, renew};
use layout::{Layout, Sum, fold};

/// Buffers that a generator works with unless said otherwise.
pub const WORKING_SET: usize = 1024;
/// Bytes at the front of a packet in which fields can run.
pub const FIELD_REACH: usize = LONG_HEAD;

const SHORT_HEAD: usize = 64;
const LONG_HEAD: usize = 128;
/// Descriptors that are prefetched ahead of their packet's making.
const AHEAD: usize = 8;

/// What a generator makes.
#[derive(Clone, Debug)]
pub struct GeneratorConfig {
    /// The packets, at least one.
    pub templates: Vec<Template>,
    /// Sets the IPv4 header's and the layer-4 checksums (UDP, TCP, ICMP, ICMPv6; a UDP checksum of 0 over IPv4 stays 0).
    pub checksums: bool,
    /// Decides about every [`Values::Random`] field.
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
    rng: Rng,
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
            rng: Rng::from_seed(config.seed),
            left: config.limit.unwrap_or(u64::MAX),
            sink: SinkQueue::new().recycling(&recycler),
            recycler,
            bodies: vec![(u32::MAX, 0); 4096].into(),
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
}

impl Queue for GeneratorQueue {
    fn rx(&mut self, frame: &mut Frame, max: usize, buffers: &mut Buffers) -> usize {
        let wanted = max.min(frame.room()).min(self.left as usize);
        let mut ring = self.recycler.lock();
        ring.prime(buffers);
        let mut count = 0;
        while count < wanted {
            buffers.prefetch(ring.upcoming(AHEAD));
            let (known, packet) = match ring.pop() {
                Some(packet) => (true, Some(packet)),
                None => (false, buffers.alloc()),
            };
            let Some(mut packet) = packet else { break };
            let plan_index = self.order[self.turn];
            self.turn += 1;
            if self.turn == self.order.len() {
                self.turn = 0;
            }
            let plan = &mut self.plans[usize::from(plan_index)];
            if !plan.make(&mut packet, buffers, &mut self.rng) {
                buffers.free(packet);
                break;
            }
            if plan.marks {
                let body = &mut self.bodies[packet.buffer_index() as usize % 4096];
                let mark = (packet.buffer_index(), u32::from(plan_index));
                if *body != mark || !known || plan.whole {
                    *body = mark;
                    plan.write_body(&mut packet, buffers);
                }
            }
            if let Err(packet) = frame.push(packet) {
                buffers.free(packet);
                break;
            }
            count += 1;
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

/// A template made ready.
struct Plan {
    /// The frame's front, with fixed fields set and running fields and checksums zero.
    head: [u8; LONG_HEAD],
    long_head: bool,
    /// Length of the frame.
    length: usize,
    cursors: Box<[Cursor]>,
    ip: Option<Closing>,
    layer4: Option<Closing>,
    /// It writes behind the first [`SHORT_HEAD`] bytes, where a payload that is still right would lie.
    marks: bool,
    whole: bool,
    bytes: Box<[u8]>,
}

/// How a checksum field is closed.
#[derive(Clone, Copy)]
struct Closing {
    at: usize,
    /// Sum of what does not change.
    base: u64,
    /// A sum of 0 is stored as 0xffff (RFC 768).
    udp: bool,
}

struct Cursor {
    at: usize,
    width: u8,
    /// Bits by which the value is shifted to stand right in 16-bit words.
    shift: u32,
    /// All ones where the field is under the sum, else zero.
    in_ip: u64,
    in_layer4: u64,
    run: Run,
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
    },
    List {
        values: Box<[u32]>,
        at: usize,
    },
}

impl Run {
    #[inline(always)]
    fn next(&mut self, rng: &mut Rng) -> u32 {
        match self {
            Self::Increment {
                next,
                first,
                last,
                step,
            } => {
                let value = *next;
                *next = if *last - value < *step {
                    *first
                } else {
                    value + *step
                };
                value
            }
            Self::Random { first, span } => {
                // By multiplication; the span may be 2^32.
                *first + ((u64::from(rng.next_u32()) * *span) >> 32) as u32
            }
            Self::List { values, at } => {
                let value = values[*at];
                *at += 1;
                if *at == values.len() {
                    *at = 0;
                }
                value
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
            let cursor =
                Cursor::new(field, &bytes, &layout).map_err(|problem| GeneratorError::Field {
                    template: index,
                    field: number,
                    problem,
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
                    base: sum.over(&bytes),
                    udp: sum.udp,
                }
            })
        };
        let (layer4, ip) = (close(&layout.layer4), close(&layout.ip));
        // Everything in the headers is written each time, since nodes may have changed it.
        let long_head = layout.headers.is_none_or(|headers| headers > SHORT_HEAD)
            || cursors
                .iter()
                .any(|cursor| cursor.at + usize::from(cursor.width) > SHORT_HEAD);
        let mut head = [0; LONG_HEAD];
        let known = bytes.len().min(LONG_HEAD);
        head[..known].copy_from_slice(&bytes[..known]);
        Ok(Self {
            head,
            long_head: long_head && bytes.len() > SHORT_HEAD,
            length: bytes.len(),
            cursors: cursors.into(),
            ip,
            layer4,
            marks: bytes.len() > SHORT_HEAD,
            whole: config.whole,
            bytes: bytes.into(),
        })
    }

    /// Makes the packet's front in a buffer; false where the buffer cannot hold it.
    #[inline(always)]
    fn make(&mut self, packet: &mut Descriptor, buffers: &Buffers, rng: &mut Rng) -> bool {
        if !renew(packet, self.length.max(LONG_HEAD)) {
            return false;
        }
        let Some(front) = buffers.head_mut::<LONG_HEAD>(packet) else {
            return false;
        };
        if self.long_head {
            *front = self.head;
        } else {
            front[..SHORT_HEAD].copy_from_slice(&self.head[..SHORT_HEAD]);
        }
        let mut ip_sum = self.ip.map_or(0, |closing| closing.base);
        let mut layer4_sum = self.layer4.map_or(0, |closing| closing.base);
        for cursor in &mut self.cursors {
            let value = cursor.run.next(rng);
            cursor.store(value, front);
            let words = u64::from(value) << cursor.shift;
            let sum = (words & 0xffff) + ((words >> 16) & 0xffff) + (words >> 32);
            ip_sum += sum & cursor.in_ip;
            layer4_sum += sum & cursor.in_layer4;
        }
        if let Some(closing) = &self.ip {
            closing.store(ip_sum, front);
        }
        if let Some(closing) = &self.layer4 {
            closing.store(layer4_sum, front);
        }
        packet.truncate(self.length);
        true
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

impl Closing {
    #[inline(always)]
    fn store(&self, sum: u64, front: &mut [u8; LONG_HEAD]) {
        let mut sum = !fold(sum);
        if self.udp && sum == 0 {
            sum = 0xffff;
        }
        // A place behind the front is refused when the template is read.
        if let Some(field) = front.get_mut(self.at..self.at + 2) {
            field.copy_from_slice(&sum.to_be_bytes());
        }
    }
}

impl Cursor {
    /// A cursor for a field that runs, none for one that stands still; or what is wrong with it.
    fn new(field: &Field, bytes: &[u8], layout: &Layout) -> Result<Option<Self>, String> {
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
            width: field.width,
            // Checksummed ranges begin at even offsets of the frame: Ethernet and tags have an even length.
            shift: if (at + width).is_multiple_of(2) { 0 } else { 8 },
            in_ip: if in_ip { u64::MAX } else { 0 },
            in_layer4: if in_layer4 { u64::MAX } else { 0 },
            run,
        }))
    }

    #[inline(always)]
    fn store(&self, value: u32, front: &mut [u8; LONG_HEAD]) {
        let bytes = value.to_be_bytes();
        let Some(field) = front.get_mut(self.at..self.at + usize::from(self.width)) else {
            return;
        };
        match field {
            [a, b, c, d] => [*a, *b, *c, *d] = bytes,
            [a, b] => [*a, *b] = [bytes[2], bytes[3]],
            [a] => *a = bytes[3],
            [a, b, c] => [*a, *b, *c] = [bytes[1], bytes[2], bytes[3]],
            _ => {}
        }
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
