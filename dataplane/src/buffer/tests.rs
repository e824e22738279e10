//! Tests of the buffers.

use proptest::prelude::*;

use super::*;

fn pool(count: usize) -> Pool {
    Pool::new(count, Pages::Transparent).expect("memory")
}

#[test]
fn every_buffer_is_handed_out_once() {
    let pool = pool(1000);
    let mut buffers = pool.cache();
    let all: Vec<_> = std::iter::from_fn(|| buffers.alloc()).collect();
    assert_eq!(all.len(), 1000);
    let mut numbers: Vec<_> = all.iter().map(Descriptor::buffer_index).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 1000);
    assert!(
        pool.audit()
            .unwrap_err()
            .contains("1000 of 1000 buffers are lost")
    );
    all.into_iter().for_each(|packet| buffers.free(packet));
    drop(buffers);
    pool.audit().expect("balanced");
}

#[test]
fn a_descriptor_of_another_pool_finds_nothing() {
    let (ours, theirs) = (pool(10), pool(10));
    let (mut a, mut b) = (ours.cache(), theirs.cache());
    let mut packet = a.copy_from(b"hello").expect("buffer");
    assert!(b.bytes(&packet).is_empty() && b.bytes_mut(&mut packet).is_empty());
    b.free(packet);
    drop((a, b));
    theirs.audit().expect("the foreign buffer was not taken");
}

#[test]
fn headers_move_within_the_room() {
    let pool = pool(1);
    let mut buffers = pool.cache();
    let mut packet = buffers.copy_from(&[7; 100]).expect("buffer");
    assert!(!packet.retreat(HEADROOM + 1) && packet.retreat(HEADROOM) && !packet.retreat(1));
    assert_eq!(packet.length(), 100 + HEADROOM);
    assert!(packet.advance(HEADROOM) && !packet.advance(101));
    assert_eq!(buffers.bytes(&packet), [7; 100]);
    assert!(!packet.extend(DATA_SIZE - 99) && packet.extend(DATA_SIZE - 100));
    packet.truncate(3);
    assert_eq!(buffers.bytes(&packet), [7; 3]);
    assert!(packet.advance(3) && buffers.head::<1>(&packet).is_none());
    buffers.free(packet);
}

#[test]
fn exhaustion_is_refused_and_loses_nothing() {
    let pool = pool(3);
    let mut buffers = pool.cache();
    assert!(buffers.copy_from(&vec![0; 4 * DATA_SIZE]).is_none());
    let mut packet = buffers
        .copy_from(&vec![1; 2 * DATA_SIZE])
        .expect("two buffers");
    assert!(!buffers.append(&mut packet, &vec![2; 2 * DATA_SIZE]));
    assert_eq!(buffers.total_length(&packet), 2 * DATA_SIZE);
    assert!(buffers.append(&mut packet, &[3; 10]));
    assert!(!buffers.append(&mut packet, &vec![0; MAX_PACKET]));
    buffers.free(packet);
    drop(buffers);
    pool.audit().expect("balanced");
}

#[test]
fn threads_share_the_pool() {
    let pool = pool(4096);
    let threads: Vec<_> = (0..4)
        .map(|seed| {
            let pool = pool.clone();
            std::thread::spawn(move || {
                let (mut buffers, mut rng) = (pool.cache(), crate::Rng::from_seed(seed));
                let mut held = Vec::new();
                for _ in 0..50_000 {
                    if rng.below(2) == 0 {
                        if let Some(mut packet) = buffers.copy_from(&[seed as u8; 64]) {
                            assert!(
                                buffers
                                    .bytes_mut(&mut packet)
                                    .iter()
                                    .all(|b| *b == seed as u8)
                            );
                            held.push(packet);
                        }
                    } else if let Some(packet) = held.pop() {
                        assert!(buffers.bytes(&packet).iter().all(|b| *b == seed as u8));
                        buffers.free(packet);
                    }
                }
                held.into_iter().for_each(|packet| buffers.free(packet));
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().expect("no buffer was shared"));
    pool.audit().expect("balanced");
}

proptest! {
    #[test]
    fn chains_hold_what_was_put_in(lengths in proptest::collection::vec(0usize..5000, 1..6), cut in 0usize..20_000) {
        let pool = pool(64);
        let mut buffers = pool.cache();
        let bytes: Vec<u8> = (0..lengths.iter().sum::<usize>()).map(|i| i as u8).collect();
        let mut at = lengths[0];
        let mut packet = buffers.copy_from(&bytes[..at]).expect("buffers");
        for length in &lengths[1..] {
            prop_assert!(buffers.append(&mut packet, &bytes[at..at + length]));
            at += length;
        }
        prop_assert_eq!(buffers.total_length(&packet), bytes.len());
        prop_assert_eq!(&buffers.segments(&packet).collect::<Vec<_>>().concat(), &bytes);
        let mut out = vec![0; bytes.len() + 1];
        let skip = cut.min(bytes.len());
        let count = buffers.copy_out(&packet, skip, &mut out);
        prop_assert_eq!(&out[..count], &bytes[skip..]);
        let mut again = Vec::new();
        buffers.for_each_segment_mut(&mut packet, |segment| { again.extend_from_slice(segment); true });
        prop_assert_eq!(&again, &bytes);
        buffers.truncate_total(&mut packet, cut);
        prop_assert_eq!(buffers.total_length(&packet), cut.min(bytes.len()));
        prop_assert_eq!(buffers.segments(&packet).collect::<Vec<_>>().concat(), &bytes[..cut.min(bytes.len())]);
        buffers.free(packet);
        drop(buffers);
        prop_assert!(pool.audit().is_ok());
    }
}
