//! Tier 1: a row of bits, one per rule, for every value of every field; the AND of a packet's rows holds
//! the rules that match, and its lowest bit is the first of them. (Lakshman and Stiliadis, "High-speed
//! policy-based packet forwarding", 1998; long rows with summaries as in Baboescu and Varghese, 2001.)
//!
//! A field that no rule looks at has no rows. Keys are resolved in groups, field by field, so that the
//! searches of neighbouring keys overlap. Addresses come first: where the first rule that is left looks at
//! nothing else, for every key of a group, the other fields are not searched.

use std::{collections::HashMap, sync::Arc};

use super::{
    NO_MATCH,
    borders::{Borders, Searched, sweep},
    classes::{ClassMembership, SetClasses},
    key::{Address, Key, Layer4},
    live::Live,
    lowered::{Kept, Lowered, LoweredSide, Ports},
    rows::{Rows, Shape},
    rule::SetId,
    spans::Span,
};

/// Keys resolved together.
const GROUP: usize = 32;
/// Words of rows that are stored by rank, without sharing equal ones: saves a load.
const DIRECT_WORDS: usize = 4096;

/// The rules of a part of a list.
#[derive(Clone, Debug)]
pub(super) struct BitVectors<A: Address> {
    shape: Shape,
    /// Rule number of each bit; the first `numbers.len()` bits are in use.
    numbers: Arc<[u32]>,
    /// Whether bit and number are the same.
    in_place: bool,
    // Behind an `Arc` is what does not change when classes are added.
    /// Those that refer to sets.
    rules: Arc<Kept<A>>,
    source: Option<Arc<Intervals<A>>>,
    destination: Option<Arc<Intervals<A>>>,
    protocol: Option<Arc<Protocol>>,
    icmp: Option<Arc<Intervals<u16>>>,
    source_port: Option<Arc<Intervals<u16>>>,
    destination_port: Option<Arc<Intervals<u16>>>,
    classes: ClassFields,
    /// Bits of rules that look at the source address at most, and of those that look at addresses at most. Empty where the
    /// rows of these fields are not stored by rank.
    settled: [Arc<[u64]>; 2],
}

/// Rows by classes of sets.
#[derive(Clone, Debug)]
struct ClassFields {
    source: Option<Classes>,
    destination: Option<Classes>,
    source_port: Option<Classes>,
    destination_port: Option<Classes>,
}

/// A field whose values are intervals.
#[derive(Clone, Debug)]
struct Intervals<T: Searched> {
    borders: Borders<T>,
    /// Place of the row by rank.
    places: Vec<u32>,
    /// Place of the row of packets that have no such field.
    absent: u32,
    rows: Rows,
    /// Small tables: the rows themselves by rank, behind them that of packets that have no such field.
    direct: Vec<u64>,
}

#[derive(Clone, Debug)]
struct Protocol {
    places: Box<[u32; 256]>,
    rows: Rows,
}

/// A field whose values are classes.
#[derive(Clone, Debug)]
struct Classes {
    /// Place of the row by class.
    places: Vec<u32>,
    /// Place of the row of packets that have no such field.
    absent: u32,
    rows: Rows,
    /// The row of a class in none of the sets in use.
    base: Vec<u64>,
    /// Which bits refer to a set.
    users: HashMap<SetId, Vec<u32>>,
}

/// The part of a rule that a class field evaluates.
#[derive(Clone, Copy)]
enum ClassPart {
    SourceAddress,
    DestinationAddress,
    SourcePort,
    DestinationPort,
}

/// Rows of one key, by place. `NONE` where a field has no rows.
type Places = [u32; GROUP];

impl<A: Address> BitVectors<A> {
    /// Over the rules of `all` whose numbers are in `numbers`, ascending.
    pub fn new(all: &[Option<Lowered<A>>], numbers: Vec<u32>, sets: &SetClasses) -> Self {
        let shape = Shape::new(numbers.len());
        let rules: Vec<&Lowered<A>> = numbers
            .iter()
            .filter_map(|&number| all[number as usize].as_ref())
            .collect();
        debug_assert_eq!(rules.len(), numbers.len());
        let address = |side: fn(&Lowered<A>) -> &LoweredSide<A>| {
            let free = |rule: &&Lowered<A>| side(rule).any_address();
            Intervals::new(shape, &rules, free, |_| true, |rule| &side(rule).addresses)
        };
        let port_sets = |side: fn(&Lowered<A>) -> &LoweredSide<A>| {
            rules.iter().any(|rule| {
                let ports = &side(rule).ports;
                !(ports.accepted_sets.is_empty() && ports.refused_sets.is_empty())
            })
        };
        let by_source_port = port_sets(|rule| &rule.source);
        let by_destination_port = port_sets(|rule| &rule.destination)
            || rules.iter().any(|rule| !rule.services.is_empty());
        let icmp = Intervals::new(
            shape,
            &rules,
            |rule| rule.icmp.is_none(),
            |rule| rule.icmp.is_none(),
            |rule| rule.icmp.as_deref().unwrap_or(&[]),
        );
        let uses_sets = |number: &u32| {
            all[*number as usize]
                .as_ref()
                .is_some_and(Lowered::uses_sets)
        };
        let with_sets = Kept::new(all, numbers.iter().copied().filter(uses_sets).collect());
        let classes = ClassFields {
            source: Classes::new(shape, &numbers, all, ClassPart::SourceAddress, sets),
            destination: Classes::new(shape, &numbers, all, ClassPart::DestinationAddress, sets),
            source_port: by_source_port
                .then(|| Classes::new(shape, &numbers, all, ClassPart::SourcePort, sets))
                .flatten(),
            destination_port: by_destination_port
                .then(|| Classes::new(shape, &numbers, all, ClassPart::DestinationPort, sets))
                .flatten(),
        };
        let source = address(|rule| &rule.source).map(Arc::new);
        let destination = address(|rule| &rule.destination).map(Arc::new);
        let by_rank = |field: &Option<Arc<Intervals<A>>>| {
            let stored = |field: &Arc<Intervals<A>>| !field.direct.is_empty();
            field.as_ref().is_none_or(stored)
        };
        let settled = |known: bool, looks_no_further: &dyn Fn(&Lowered<A>) -> bool| {
            let mut bits = vec![0; if known { shape.words } else { 0 }];
            for (bit, rule) in rules.iter().enumerate() {
                if known && looks_no_further(rule) {
                    set(&mut bits, bit);
                }
            }
            Arc::from(bits)
        };
        let settled = [
            settled(by_rank(&source), &|rule| {
                rule.looks_at_addresses_only() && rule.destination.any_address()
            }),
            settled(by_rank(&source) && by_rank(&destination), &|rule| {
                rule.looks_at_addresses_only()
            }),
        ];
        Self {
            shape,
            settled,
            rules: Arc::new(with_sets),
            in_place: numbers.iter().enumerate().all(|(bit, &n)| bit as u32 == n),
            source,
            destination,
            protocol: Protocol::new(shape, &rules).map(Arc::new),
            icmp: icmp.map(Arc::new),
            source_port: port_field(shape, &rules, |rule| &rule.source, by_source_port)
                .map(Arc::new),
            destination_port: port_field(
                shape,
                &rules,
                |rule| &rule.destination,
                by_destination_port,
            )
            .map(Arc::new),
            numbers: numbers.into(),
            classes,
        }
    }

    /// The same with rows for classes that `sets` has beyond those known; `None` if all are known. Copies the rows
    /// of class fields.
    pub fn extended(&self, sets: &SetClasses) -> Option<Self> {
        let known = |field: &Option<Classes>, classes: &ClassMembership| {
            let enough = |field: &Classes| field.places.len() >= classes.len() as usize;
            field.as_ref().is_none_or(enough)
        };
        let now = &self.classes;
        if known(&now.source, &sets.addresses)
            && known(&now.destination, &sets.addresses)
            && known(&now.source_port, &sets.ip_ports)
            && known(&now.destination_port, &sets.ip_ports)
        {
            return None;
        }
        let mut extended = self.clone();
        let numbers = &extended.numbers;
        let rule_of = |number| extended.rules.rule(number);
        let classes = &mut extended.classes;
        for (field, part) in [
            (&mut classes.source, ClassPart::SourceAddress),
            (&mut classes.destination, ClassPart::DestinationAddress),
            (&mut classes.source_port, ClassPart::SourcePort),
            (&mut classes.destination_port, ClassPart::DestinationPort),
        ] {
            if let Some(field) = field {
                field.extend(numbers, rule_of, part, sets);
            }
        }
        Some(extended)
    }

    /// Lowers every `out` to the first rule that matches, if that is smaller.
    #[inline]
    pub fn classify(&self, keys: &[Key<A>], out: &mut [u32], live: Live<'_>) {
        for (keys, out) in keys.chunks(GROUP).zip(out.chunks_mut(GROUP)) {
            match self.shape.words {
                1 => self.classify_group::<1>(keys, out, live),
                2 => self.classify_group::<2>(keys, out, live),
                4 => self.classify_group::<4>(keys, out, live),
                8 => self.classify_group::<8>(keys, out, live),
                _ => self.classify_long(keys, out, live),
            }
        }
    }

    /// Rules of the lowest bit to start from: all in use and in force.
    fn start(&self, word: usize, live: Live<'_>) -> u64 {
        let used = (self.numbers.len() - (64 * word).min(self.numbers.len())).min(64);
        let all = if used == 64 {
            u64::MAX
        } else {
            (1 << used) - 1
        };
        match live.0 {
            None => all,
            Some(words) if self.in_place => all & words.get(word).copied().unwrap_or(0),
            Some(_) => {
                let numbers = &self.numbers[(64 * word).min(self.numbers.len())..];
                let alive = |(bit, &number): (usize, &u32)| u64::from(live.contains(number)) << bit;
                numbers[..used].iter().enumerate().map(alive).sum()
            }
        }
    }

    #[inline(always)]
    fn classify_group<const W: usize>(&self, keys: &[Key<A>], out: &mut [u32], live: Live<'_>) {
        let mut start = [0; W];
        for (word, start) in start.iter_mut().enumerate() {
            *start = self.start(word, live);
        }
        let mut rows = [start; GROUP];
        let rows = &mut rows[..keys.len().min(GROUP)];
        let mut places = [0; GROUP];
        let mut class_places = [0; GROUP];
        if let Some(field) = &self.source {
            field.and(keys, |key| key.source, |_| true, rows);
            if self.are_settled(0, rows) {
                return self.finish(rows, out);
            }
        }
        if let Some(field) = &self.destination {
            field.and(keys, |key| key.destination, |_| true, rows);
            if self.are_settled(1, rows) {
                return self.finish(rows, out);
            }
        }
        if let Some(field) = &self.icmp {
            let is_icmp = |key: &Key<A>| key.layer4 == Layer4::Icmp;
            field.and(keys, Key::type_and_code, is_icmp, rows);
        }
        if let Some(field) = &self.source_port {
            field.and(keys, |key| key.source_port, Key::has_ports, rows);
        }
        if let Some(field) = &self.destination_port {
            field.and(keys, |key| key.destination_port, Key::has_ports, rows);
        }
        self.each_field(
            keys,
            &mut places,
            &mut class_places,
            |field, places, class_places| match field {
                Term::Plain(words) => {
                    for (row, &place) in rows.iter_mut().zip(places) {
                        let own = &words[place as usize..][..W];
                        for (word, &own) in row.iter_mut().zip(own) {
                            *word &= own;
                        }
                    }
                }
                Term::Ports(ranges, classes) => {
                    let places = places.iter().zip(class_places);
                    for (row, (&place, &class_place)) in rows.iter_mut().zip(places) {
                        let range = &ranges[place as usize..][..2 * W];
                        let class = &classes[class_place as usize..][..2 * W];
                        for word in 0..W {
                            row[word] &=
                                (range[word] | class[word]) & range[W + word] & class[W + word];
                        }
                    }
                }
            },
        );
        self.finish(rows, out);
    }

    /// Whether in every row the lowest bit is one of those settled behind this address, or there is none.
    #[inline(always)]
    fn are_settled<const W: usize>(&self, address: usize, rows: &[[u64; W]]) -> bool {
        let Some(settled) = self.settled[address].first_chunk::<W>() else {
            return false;
        };
        if *settled == [0; W] {
            return false;
        }
        // Rules that look further and stand in front of all others of their row.
        let mut open = 0;
        for row in rows {
            let mut below = 0;
            for word in 0..W {
                let lowest = row[word] & row[word].wrapping_neg();
                open |= if below == 0 {
                    lowest & !settled[word]
                } else {
                    0
                };
                below |= row[word];
            }
        }
        open == 0
    }

    /// The lowest bit of each row is the first rule that matches.
    #[inline(always)]
    fn finish<const W: usize>(&self, rows: &[[u64; W]], out: &mut [u32]) {
        for (out, row) in out.iter_mut().zip(rows) {
            // From the last word to the first: the lowest bit is what remains.
            let mut first = NO_MATCH;
            for word in (0..W).rev() {
                let bit = 64 * word as u32 + row[word].trailing_zeros();
                first = if row[word] == 0 { first } else { bit };
            }
            if first != NO_MATCH {
                *out = (*out).min(self.number(first));
            }
        }
    }

    /// More than 512 rules: first the summaries, then the words that they leave.
    #[inline(never)]
    fn classify_long(&self, keys: &[Key<A>], out: &mut [u32], live: Live<'_>) {
        const FIELDS: usize = 8;
        let mut all = [(Term::Plain(&[]), [0; GROUP], [0; GROUP]); FIELDS];
        let mut used = 0;
        let mut places = [0; GROUP];
        let mut class_places = [0; GROUP];
        self.each_field(
            keys,
            &mut places,
            &mut class_places,
            |term, places, class_places| {
                all[used] = (term, *places, *class_places);
                used += 1;
            },
        );
        let all = &all[..used];
        let Shape { words, summary } = self.shape;
        let stride = self.shape.stride();
        for (at, out) in out.iter_mut().enumerate().take(keys.len()) {
            // Words `word` of all rows, ANDed; the summary stands in front.
            let and = |mut bits: u64, word: usize| {
                for (term, places, class_places) in all {
                    let place = places[at] as usize + word;
                    bits &= match term {
                        Term::Plain(words) => words[place],
                        Term::Ports(ranges, classes) => {
                            let class = class_places[at] as usize + word;
                            (ranges[place] | classes[class])
                                & ranges[place + stride]
                                & classes[class + stride]
                        }
                    };
                }
                bits
            };
            'summary: for group in 0..summary {
                let mut candidates = and(u64::MAX, group);
                while candidates != 0 {
                    let word = 64 * group + candidates.trailing_zeros() as usize;
                    candidates &= candidates - 1;
                    if word >= words {
                        break;
                    }
                    let bits = and(self.start(word, live), summary + word);
                    if bits != 0 {
                        let bit = 64 * word as u32 + bits.trailing_zeros();
                        *out = (*out).min(self.number(bit));
                        break 'summary;
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn number(&self, bit: u32) -> u32 {
        if self.in_place {
            bit
        } else {
            self.numbers[bit as usize]
        }
    }

    /// Calls `term` with the rows of every field in use whose rows are not stored by rank, and where in them
    /// the rows of `keys` are.
    #[inline(always)]
    fn each_field<'a>(
        &'a self,
        keys: &[Key<A>],
        places: &mut Places,
        class_places: &mut Places,
        mut term: impl FnMut(Term<'a>, &Places, &Places),
    ) {
        let direct = |rows: &[u64]| !rows.is_empty();
        fn fill<A>(places: &mut Places, keys: &[Key<A>], place: impl Fn(&Key<A>) -> u32) {
            for (out, key) in places.iter_mut().zip(keys) {
                *out = place(key);
            }
        }
        if let Some(field) = &self.source
            && !direct(&field.direct)
        {
            field.places(keys.iter().map(|key| key.source), places);
            term(Term::Plain(&field.rows.words), places, class_places);
        }
        if let Some(field) = &self.destination
            && !direct(&field.direct)
        {
            field.places(keys.iter().map(|key| key.destination), places);
            term(Term::Plain(&field.rows.words), places, class_places);
        }
        if let Some(field) = &self.protocol {
            fill(places, keys, |key| field.places[key.protocol as usize]);
            term(Term::Plain(&field.rows.words), places, class_places);
        }
        if let Some(field) = &self.classes.source {
            fill(places, keys, |key| field.place(key.source_class));
            term(Term::Plain(&field.rows.words), places, class_places);
        }
        if let Some(field) = &self.classes.destination {
            fill(places, keys, |key| field.place(key.destination_class));
            term(Term::Plain(&field.rows.words), places, class_places);
        }
        if let Some(field) = &self.icmp
            && !direct(&field.direct)
        {
            field.places(keys.iter().map(Key::type_and_code), places);
            field.without(keys, |key| key.layer4 == Layer4::Icmp, places);
            term(Term::Plain(&field.rows.words), places, class_places);
        }
        let ported = Key::has_ports;
        if let Some(field) = &self.source_port
            && !direct(&field.direct)
        {
            field.places(keys.iter().map(|key| key.source_port), places);
            field.without(keys, ported, places);
            if let Some(classes) = &self.classes.source_port {
                fill(class_places, keys, |key| {
                    classes.place_if(ported(key), key.source_port_class)
                });
                term(
                    Term::Ports(&field.rows.words, &classes.rows.words),
                    places,
                    class_places,
                );
            } else {
                term(Term::Plain(&field.rows.words), places, class_places);
            }
        }
        if let Some(field) = &self.destination_port
            && !direct(&field.direct)
        {
            field.places(keys.iter().map(|key| key.destination_port), places);
            field.without(keys, ported, places);
            if let Some(classes) = &self.classes.destination_port {
                fill(class_places, keys, |key| {
                    classes.place_if(ported(key), key.destination_port_class)
                });
                term(
                    Term::Ports(&field.rows.words, &classes.rows.words),
                    places,
                    class_places,
                );
            } else {
                term(Term::Plain(&field.rows.words), places, class_places);
            }
        }
    }

    /// Number of rules.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    pub fn bytes(&self) -> usize {
        fn of<T: Searched>(field: &Option<Arc<Intervals<T>>>) -> usize {
            field.as_ref().map_or(0, |field| {
                let rows = size_of_val(&field.places[..]) + field.rows.bytes();
                field.borders.bytes() + rows + size_of_val(&field.direct[..])
            })
        }
        let classes = |field: &Option<Classes>| {
            field.as_ref().map_or(0, |field| {
                size_of_val(&field.places[..]) + field.rows.bytes()
            })
        };
        of(&self.source)
            + of(&self.destination)
            + of(&self.icmp)
            + of(&self.source_port)
            + of(&self.destination_port)
            + self.protocol.as_ref().map_or(0, |p| 1024 + p.rows.bytes())
            + classes(&self.classes.source)
            + classes(&self.classes.destination)
            + classes(&self.classes.source_port)
            + classes(&self.classes.destination_port)
            + size_of_val(&self.numbers[..])
    }
}

/// How a field restricts the rules.
#[derive(Clone, Copy)]
enum Term<'a> {
    /// AND with a row.
    Plain(&'a [u64]),
    /// AND with (accepted by range OR accepted by class), with not refused by range, with not refused by
    /// class: two bitmaps side by side in each row of both tables.
    Ports(&'a [u64], &'a [u64]),
}

impl<T: Searched> Intervals<T> {
    /// `None` if no rule restricts the field. `free` tells whether a rule does not; `absent` whether a
    /// rule matches packets without the field; `spans` are the values that match.
    fn new<A: Address>(
        shape: Shape,
        rules: &[&Lowered<A>],
        free: impl Fn(&&Lowered<A>) -> bool,
        absent: impl Fn(&Lowered<A>) -> bool,
        spans: impl Fn(&Lowered<A>) -> &[Span<T>],
    ) -> Option<Self> {
        if rules.iter().all(&free) {
            return None;
        }
        let mut rows = Rows::new(shape, 1);
        let mut current = rows.blank();
        let mut missing = rows.blank();
        for (bit, rule) in rules.iter().enumerate() {
            if free(rule) {
                set(&mut current, bit);
            }
            if absent(rule) {
                set(&mut missing, bit);
            }
        }
        let restricted = rules.iter().enumerate().filter(|(_, rule)| !free(rule));
        let spans = restricted
            .flat_map(|(bit, rule)| spans(rule).iter().map(move |&span| (bit as u32, span)));
        let (borders, places) = sweep(spans, &mut current, |row| rows.add(row));
        let absent = rows.add(&missing);
        rows.freeze();
        if shape.summary == 0 && (places.len() + 1) * shape.words <= DIRECT_WORDS {
            let mut direct = Vec::new();
            for &place in places.iter().chain([&absent]) {
                direct.extend_from_slice(&rows.words[place as usize..][..shape.words]);
            }
            return Some(Self {
                borders,
                places: Vec::new(),
                absent,
                rows: Rows::new(shape, 1),
                direct,
            });
        }
        Some(Self {
            borders,
            places,
            absent,
            rows,
            direct: Vec::new(),
        })
    }

    #[inline(always)]
    fn places(&self, values: impl Iterator<Item = T>, places: &mut Places) {
        self.borders
            .ranks(values, |at, rank| places[at] = self.places[rank]);
    }

    /// ANDs the row of each key, if rows are stored by rank.
    #[inline(always)]
    fn and<const W: usize, K>(
        &self,
        keys: &[K],
        value: impl Fn(&K) -> T,
        present: impl Fn(&K) -> bool,
        rows: &mut [[u64; W]],
    ) {
        let (direct, []) = self.direct.as_chunks::<W>() else {
            return;
        };
        let Some(absent) = direct.len().checked_sub(1) else {
            return;
        };
        self.borders.ranks(keys.iter().map(value), |at, rank| {
            let rank = if present(&keys[at]) { rank } else { absent };
            let own = &direct[rank];
            for (word, &own) in rows[at].iter_mut().zip(own) {
                *word &= own;
            }
        });
    }

    /// Puts the row of packets without the field where it is not `present`.
    #[inline(always)]
    fn without<K>(&self, keys: &[K], present: impl Fn(&K) -> bool, places: &mut Places) {
        for (place, key) in places.iter_mut().zip(keys) {
            *place = if present(key) { *place } else { self.absent };
        }
    }
}

/// The rows of a port field. With `paired`, each row holds what ranges accept, then what they do not refuse.
fn port_field<A: Address>(
    shape: Shape,
    rules: &[&Lowered<A>],
    side: fn(&Lowered<A>) -> &LoweredSide<A>,
    paired: bool,
) -> Option<Intervals<u16>> {
    if !paired {
        return Intervals::new(
            shape,
            rules,
            |rule| !rule.needs_ports,
            |rule| !rule.needs_ports,
            |rule| &side(rule).ports.accepted,
        );
    }
    // Bits of the second bitmap follow those of the first. A refused range turns a bit off that was on.
    let second = 64 * shape.words;
    let mut rows = Rows::new(shape, 2);
    let mut current = rows.blank();
    let mut missing = rows.blank();
    let mut spans = Vec::new();
    for (bit, rule) in rules.iter().enumerate() {
        set(&mut current, second + bit);
        set(&mut missing, second + bit);
        if !rule.needs_ports {
            set(&mut current, bit);
            set(&mut missing, bit);
            continue;
        }
        let ports: &Ports = &side(rule).ports;
        spans.extend(ports.accepted.iter().map(|&span| (bit as u32, span)));
        let refused = ports.refused.iter();
        spans.extend(refused.map(|&span| ((second + bit) as u32, span)));
    }
    let (borders, places) = sweep(spans.into_iter(), &mut current, |row| rows.add(row));
    let absent = rows.add(&missing);
    rows.freeze();
    Some(Intervals {
        borders,
        places,
        absent,
        rows,
        direct: Vec::new(),
    })
}

impl Protocol {
    fn new<A: Address>(shape: Shape, rules: &[&Lowered<A>]) -> Option<Self> {
        if rules.iter().all(|rule| rule.protocols.len() == 256) {
            return None;
        }
        let mut rows = Rows::new(shape, 1);
        let mut places = Box::new([0; 256]);
        for protocol in 0..=u8::MAX {
            let mut row = rows.blank();
            for (bit, rule) in rules.iter().enumerate() {
                if rule.protocols.contains(protocol) {
                    set(&mut row, bit);
                }
            }
            places[usize::from(protocol)] = rows.add(&row);
        }
        rows.freeze();
        Some(Self { places, rows })
    }
}

impl ClassPart {
    fn sets_of<A>(self, rule: &Lowered<A>) -> [&[SetId]; 3] {
        match self {
            Self::SourceAddress => [&rule.source.all_of, &rule.source.none_of, &[]],
            Self::DestinationAddress => [&rule.destination.all_of, &rule.destination.none_of, &[]],
            Self::SourcePort => {
                let ports = &rule.source.ports;
                [&ports.accepted_sets, &ports.refused_sets, &[]]
            }
            Self::DestinationPort => {
                let ports = &rule.destination.ports;
                [&ports.accepted_sets, &ports.refused_sets, &rule.services]
            }
        }
    }

    fn membership(self, sets: &SetClasses) -> &ClassMembership {
        match self {
            Self::SourceAddress | Self::DestinationAddress => &sets.addresses,
            Self::SourcePort | Self::DestinationPort => &sets.ip_ports,
        }
    }

    fn columns(self) -> usize {
        match self {
            Self::SourceAddress | Self::DestinationAddress => 1,
            Self::SourcePort | Self::DestinationPort => 2,
        }
    }

    /// What `rule` says of `class`: a bit for each column.
    fn evaluate<A: Address>(self, rule: &Lowered<A>, class: u32, sets: &SetClasses) -> [bool; 2] {
        match self {
            Self::SourceAddress => [rule.source.class_matches(class, sets), false],
            Self::DestinationAddress => [rule.destination.class_matches(class, sets), false],
            Self::SourcePort => {
                let ports = &rule.source.ports;
                [
                    ports.accepts_class(class, sets),
                    !ports.refuses_class(class, sets),
                ]
            }
            Self::DestinationPort => {
                let ports = &rule.destination.ports;
                let in_service = |&set: &SetId| sets.ip_ports.contains(class, set);
                [
                    ports.accepts_class(class, sets),
                    !ports.refuses_class(class, sets) && rule.services.iter().all(in_service),
                ]
            }
        }
    }
}

impl Classes {
    /// `None` if no rule refers to a set here.
    fn new<A: Address>(
        shape: Shape,
        numbers: &[u32],
        rules: &[Option<Lowered<A>>],
        part: ClassPart,
        sets: &SetClasses,
    ) -> Option<Self> {
        let mut users: HashMap<SetId, Vec<u32>> = HashMap::new();
        let mut rows = Rows::new(shape, part.columns());
        let mut base = rows.blank();
        let mut missing = rows.blank();
        for (bit, &number) in numbers.iter().enumerate() {
            let Some(rule) = &rules[number as usize] else {
                continue;
            };
            for &set in part.sets_of(rule).into_iter().flatten() {
                let users = users.entry(set).or_default();
                if users.last() != Some(&(bit as u32)) {
                    users.push(bit as u32);
                }
            }
            // Class 0 is in no set.
            write(&mut base, shape, bit, part.evaluate(rule, 0, sets));
            // Without ports, nothing is accepted for its class; a service needs ports.
            let opaque = rule.services.is_empty() || matches!(part, ClassPart::SourcePort);
            write(&mut missing, shape, bit, [false, opaque]);
        }
        if users.is_empty() {
            return None;
        }
        let absent = rows.add(&missing);
        let mut field = Self {
            places: Vec::new(),
            absent,
            rows,
            base,
            users,
        };
        field.extend(
            numbers,
            |number| rules[number as usize].as_ref(),
            part,
            sets,
        );
        Some(field)
    }

    fn extend<'a, A: Address>(
        &mut self,
        numbers: &[u32],
        rule_of: impl Fn(u32) -> Option<&'a Lowered<A>>,
        part: ClassPart,
        sets: &SetClasses,
    ) {
        let membership = part.membership(sets);
        let known = self.places.len() as u32;
        if known >= membership.len() {
            return;
        }
        let base = self.rows.add(&self.base);
        self.places.resize(membership.len() as usize, base);
        // Only classes in a set that some rule refers to differ from class 0.
        let mut touched: Vec<u32> = Vec::new();
        for set in self.users.keys() {
            let classes = membership.classes(*set);
            let new = classes.partition_point(|&class| class < known);
            touched.extend_from_slice(&classes[new..]);
        }
        touched.sort_unstable();
        touched.dedup();
        let mut known_rows: HashMap<Vec<SetId>, u32> = HashMap::new();
        let mut row = self.base.clone();
        for class in touched {
            let own = membership.sets(class).iter().copied();
            let own: Vec<SetId> = own.filter(|set| self.users.contains_key(set)).collect();
            let place = *known_rows.entry(own).or_insert_with_key(|own| {
                row.copy_from_slice(&self.base);
                for set in own {
                    for &bit in &self.users[set] {
                        if let Some(rule) = rule_of(numbers[bit as usize]) {
                            let bits = part.evaluate(rule, class, sets);
                            write(&mut row, self.rows.shape, bit as usize, bits);
                        }
                    }
                }
                self.rows.add(&row)
            });
            self.places[class as usize] = place;
        }
    }

    #[inline(always)]
    fn place(&self, class: u32) -> u32 {
        // A class that appeared after this was compiled counts as in no set.
        self.places
            .get(class as usize)
            .copied()
            .unwrap_or(self.places[0])
    }

    #[inline(always)]
    fn place_if(&self, present: bool, class: u32) -> u32 {
        let place = self.place(class);
        if present { place } else { self.absent }
    }
}

fn set(bitmap: &mut [u64], bit: usize) {
    bitmap[bit / 64] |= 1 << (bit % 64);
}

/// Writes bit `bit` of each column.
fn write(bitmaps: &mut [u64], shape: Shape, bit: usize, values: [bool; 2]) {
    for (bitmap, value) in bitmaps.chunks_mut(shape.words).zip(values) {
        let word = &mut bitmap[bit / 64];
        *word = *word & !(1 << (bit % 64)) | u64::from(value) << (bit % 64);
    }
}
