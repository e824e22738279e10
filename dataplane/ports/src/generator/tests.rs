use dataplane::{Pages, Pool};
use proptest::prelude::*;

use super::*;

/// A frame with the given tags, IP version and protocol, checksums open.
fn frame(tags: usize, ip6: bool, protocol: u8, payload: usize) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for _ in 0..tags {
        bytes.extend([0x81, 0, 0, 5]);
    }
    let header = if protocol == 6 { 20 } else { 8 };
    let length = header + payload;
    if ip6 {
        bytes.extend([
            0x86,
            0xdd,
            0x60,
            0,
            0,
            0,
            (length >> 8) as u8,
            length as u8,
            protocol,
            64,
        ]);
        bytes.extend((0..32).map(|i| i * 7));
    } else {
        let total = length + 20;
        bytes.extend([
            8,
            0,
            0x45,
            0,
            (total >> 8) as u8,
            total as u8,
            0,
            9,
            0,
            0,
            64,
            protocol,
            0,
            0,
        ]);
        bytes.extend([10, 0, 0, 1, 10, 255, 254, 253]);
    }
    let mut layer4 = vec![0xfe; header];
    if protocol == 17 {
        layer4[4..6].copy_from_slice(&(length as u16).to_be_bytes());
    }
    bytes.extend(layer4);
    bytes.extend((0..payload).map(|i| i as u8));
    bytes
}

fn generate(config: &GeneratorConfig, count: usize) -> Vec<Vec<u8>> {
    let pool = Pool::new(600, Pages::Transparent).expect("memory");
    let mut buffers = pool.cache();
    let mut queue = GeneratorQueue::new(config).expect("a right configuration");
    let mut made = Vec::new();
    while made.len() < count {
        let mut frame = Frame::new();
        if queue.rx(&mut frame, 64.min(count - made.len()), &mut buffers) == 0 {
            break;
        }
        made.extend(
            frame
                .packets()
                .iter()
                .map(|packet| buffers.bytes(packet).to_vec()),
        );
        // What a graph does to packets must not show in the next ones.
        for packet in frame.packets_mut() {
            buffers
                .bytes_mut(packet)
                .iter_mut()
                .take(54)
                .for_each(|byte| *byte = 0xaa);
            let _ = packet.retreat(20);
            let _ = packet.advance(40);
        }
        queue.tx(frame.packets_mut(), &mut buffers);
    }
    assert_eq!(queue.sink_counters().packets(), made.len() as u64);
    drop((queue, buffers));
    pool.audit().expect("balanced");
    made
}

/// The plain slow way: both sums over the finished frame, all ones where they are right.
fn sums_of(bytes: &[u8], tags: usize, ip6: bool, protocol: u8) -> (u16, u16) {
    let add = |range: &[u8]| -> u64 {
        range
            .chunks(2)
            .map(|pair| u64::from(pair[0]) * 256 + pair.get(1).map_or(0, |b| u64::from(*b)))
            .sum()
    };
    let fold = |mut sum: u64| {
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    };
    let ip = 14 + 4 * tags;
    let (header, addresses) = if ip6 {
        (40, ip + 8..ip + 40)
    } else {
        (20, ip + 12..ip + 20)
    };
    let layer4 = &bytes[ip + header..];
    let pseudo = if protocol == 1 {
        0
    } else {
        add(&bytes[addresses]) + u64::from(protocol) + layer4.len() as u64
    };
    let ip_sum = if ip6 {
        0xffff
    } else {
        fold(add(&bytes[ip..ip + 20]))
    };
    (ip_sum, fold(add(layer4) + pseudo))
}

#[test]
fn fields_run_as_described() {
    let template = Template::new(frame(0, false, 17, 18))
        .field(
            30,
            4,
            Values::Increment {
                first: 0x0a01_0000,
                last: 0x0a01_0004,
                step: 2,
            },
        )
        .field(35, 1, Values::List(vec![9, 8]))
        .field(15, 1, Values::Fixed(0x2e));
    let made = generate(&GeneratorConfig::new(vec![template]), 5);
    assert_eq!(
        made.iter().map(|bytes| bytes[33]).collect::<Vec<_>>(),
        [0, 2, 4, 0, 2]
    );
    assert_eq!(
        made.iter().map(|bytes| bytes[35]).collect::<Vec<_>>(),
        [9, 8, 9, 8, 9]
    );
    assert!(
        made.iter()
            .all(|bytes| bytes[15] == 0x2e && bytes.len() == 60)
    );
}

#[test]
fn templates_take_turns_by_weight_and_end_at_the_limit() {
    let of = |length, weight| Template {
        weight,
        ..Template::new(vec![0; length])
    };
    let mut config = GeneratorConfig::new(vec![of(60, 7), of(590, 4), of(1514, 1)]);
    config.limit = Some(24);
    let made = generate(&config, 100);
    let count = |length| made.iter().filter(|bytes| bytes.len() == length).count();
    assert_eq!(
        (count(60), count(590), count(1514), made.len()),
        (14, 8, 2, 24)
    );
}

#[test]
fn random_fields_repeat_with_the_seed_and_stay_in_range() {
    let mut config = GeneratorConfig::new(vec![Template::new(frame(0, false, 17, 18)).field(
        26,
        4,
        Values::Random { first: 5, last: 20 },
    )]);
    let made = generate(&config, 300);
    assert_eq!(made, generate(&config, 300));
    assert!(
        made.iter()
            .all(|bytes| bytes[26..29] == [0, 0, 0] && (5..=20).contains(&bytes[29]))
    );
    assert!((5..=20).all(|value| made.iter().any(|bytes| bytes[29] == value)));
    config.seed = 2;
    assert_ne!(made, generate(&config, 300));
}

#[test]
fn an_exhausted_pool_gives_fewer_packets() {
    let pool = Pool::new(10, Pages::Transparent).expect("memory");
    let mut buffers = pool.cache();
    let mut queue = GeneratorQueue::new(&GeneratorConfig::new(vec![Template::new(vec![0; 60])]))
        .expect("right");
    let mut frame = Frame::new();
    assert_eq!(queue.rx(&mut frame, 64, &mut buffers), 10);
    assert_eq!(queue.rx(&mut Frame::new(), 64, &mut buffers), 0);
    queue.tx(frame.packets_mut(), &mut buffers);
    drop((queue, buffers));
    pool.audit().expect("balanced");
}

#[test]
fn wrong_templates_are_named() {
    let refuse = |template: Template| {
        GeneratorQueue::new(&GeneratorConfig::new(vec![
            Template::new(vec![0; 60]),
            template,
        ]))
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default()
    };
    let udp = || Template::new(frame(0, false, 17, 18));
    assert_eq!(
        GeneratorQueue::new(&GeneratorConfig::new(vec![])).err(),
        Some(GeneratorError::NoTemplate)
    );
    assert!(refuse(Template::new(vec![0; 13])).starts_with("templates[1]: 13 bytes"));
    assert!(
        refuse(udp().field(58, 4, Values::Fixed(0)))
            .starts_with("templates[1].fields[0]: bytes 58 to 61")
    );
    assert!(refuse(udp().field(26, 5, Values::Fixed(0))).contains("width 5"));
    assert!(refuse(udp().field(26, 2, Values::Fixed(65_536))).contains("does not fit 2 bytes"));
    assert!(refuse(udp().field(24, 2, Values::Fixed(0))).contains("checksum"));
    assert!(refuse(udp().field(16, 2, Values::Fixed(0))).contains("lengths"));
    assert!(refuse(udp().field(12, 4, Values::Fixed(0))).contains("lengths"));
    assert!(
        refuse(udp().field(
            13,
            1,
            Values::Increment {
                first: 2,
                last: 1,
                step: 1
            }
        ))
        .contains("nothing runs")
    );
    assert!(refuse(udp().field(26, 4, Values::List(vec![]))).contains("empty"));
}

proptest! {
    #[test]
    fn checksums_equal_a_full_computation(
        tags in 0usize..3, ip6: bool, kind in 0usize..3, payload in 0usize..1400,
        fields in proptest::collection::vec((0usize..120, 1u8..=4, any::<u32>(), any::<u32>(), 0u8..4), 0..4),
        whole: bool,
    ) {
        let protocol = [17, 6, if ip6 { 58 } else { 1 }][kind];
        let bytes = frame(tags, ip6, protocol, payload);
        let mut template = Template::new(bytes.clone());
        for (offset, width, a, b, values) in fields {
            let mask = u32::MAX >> (32 - 8 * u32::from(width));
            let (first, last) = ((a & mask).min(b & mask), (a & mask).max(b & mask));
            let values = match values {
                0 => Values::Fixed(first),
                1 => Values::Increment { first, last, step: 1 + a % 1000 },
                2 => Values::Random { first, last },
                _ => Values::List(vec![first, last, first / 2]),
            };
            let more = template.clone().field((14 + offset) as u16, width, values);
            // Fields that overlap, or that are refused, are left out.
            let overlaps = template.fields.iter().any(|field| {
                usize::from(field.offset) < 14 + offset + usize::from(width)
                    && 14 + offset < usize::from(field.offset) + usize::from(field.width)
            });
            let tag_bytes = 14 + offset < 14 + 4 * tags;
            if !overlaps && !tag_bytes && GeneratorQueue::new(&GeneratorConfig::new(vec![more.clone()])).is_ok() {
                template = more;
            }
        }
        let mut config = GeneratorConfig::new(vec![template.clone()]);
        // The first 54 bytes are spoilt on the way; without `whole` that must not matter.
        config.whole = whole;
        for made in generate(&config, 150) {
            prop_assert_eq!(made.len(), bytes.len());
            prop_assert_eq!(sums_of(&made, tags, ip6, protocol), (0xffff, 0xffff));
            let l4 = 14 + 4 * tags + if ip6 { 40 } else { 20 };
            for at in (0..made.len()).filter(|at| !(l4..l4 + 20).contains(at) && !(10..12).contains(&at.wrapping_sub(14 + 4 * tags))) {
                let runs = template.fields.iter().any(|f| (usize::from(f.offset)..usize::from(f.offset) + usize::from(f.width)).contains(&at));
                prop_assert!(runs || made[at] == bytes[at], "byte {at} changed");
            }
        }
    }

    #[test]
    fn any_bytes_are_a_template_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), offset: u16, width: u8, ether in 0usize..3) {
        let mut bytes = bytes;
        if let Some(kind) = bytes.get_mut(12..14) {
            kind.copy_from_slice(&[[8, 0], [0x86, 0xdd], [0x81, 0]][ether]);
        }
        let template = Template::new(bytes).field(offset % 160, width % 6, Values::Random { first: 0, last: 255 });
        if let Ok(mut queue) = GeneratorQueue::new(&GeneratorConfig::new(vec![template])) {
            let pool = Pool::new(64, Pages::Transparent).expect("memory");
            let mut buffers = pool.cache();
            let mut frame = Frame::new();
            prop_assert_eq!(queue.rx(&mut frame, 32, &mut buffers), 32);
            queue.tx(frame.packets_mut(), &mut buffers);
        }
    }
}
