//! Which backends clients had.

use tables::Tick;
use tables::acl::Address;

use super::Backends;

/// Clients of a set: one hash leads to all of them.
const WAYS: usize = 4;
/// Sets: 4096 clients in all.
const SETS: usize = 1024;

/// What a worker remembers of clients whose flows are to stay with one backend: the last 4096 of them, give or take how evenly they
/// fall. Who is forgotten is sent where the hash of the address says, which changes for few.
///
/// Memory: 128 KiB, or 256 KiB for IPv6.
#[derive(Clone, Debug)]
pub struct Affinities<A>(Box<[[Option<Seat<A>>; WAYS]]>);

#[derive(Clone, Copy, Debug)]
struct Seat<A> {
    client: A,
    /// Identities.
    service: u64,
    backend: u64,
    /// When the last flow began.
    seen: Tick,
}

impl<A: Address> Default for Affinities<A> {
    fn default() -> Self {
        Self(vec![[None; WAYS]; SETS].into())
    }
}

impl<A: Address> Affinities<A> {
    /// The backend of a client's new flow to a service, which it is to have again for so long: the one that it had, if that takes
    /// new flows still, else the one that the hash picks.
    pub(super) fn choose(
        &mut self,
        (client, service): (A, u64),
        hash: u64,
        backends: &Backends<A>,
        timeout_secs: u32,
        now: Tick,
    ) -> Option<u16> {
        // The upper bits of the hash choose the backend.
        let set = &mut self.0[hash as usize % SETS];
        let timeout = u64::from(timeout_secs) * 1_000_000_000 / Tick::NANOS;
        let is_asked = |seat: &Option<Seat<A>>| {
            seat.is_some_and(|seat| (seat.client, seat.service) == (client, service))
        };
        let known = set.iter().position(is_asked);
        let had = known
            .and_then(|at| set[at])
            .filter(|seat| u64::from(now.since(seat.seen)) < timeout)
            .and_then(|seat| backends.takes(seat.backend));
        let backend = had.or_else(|| backends.pick(hash))?;
        let identity = backends.list().get(usize::from(backend))?.identity;
        let age = |at: &usize| set[*at].map_or(u32::MAX, |seat| now.since(seat.seen));
        let at = known.or_else(|| (0..WAYS).max_by_key(age))?;
        set[at] = Some(Seat {
            client,
            service,
            backend: identity,
            seen: now,
        });
        Some(backend)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::Backend;

    fn backends(identities: &[(u64, u32)]) -> Backends<u32> {
        let backend = |(identity, weight): &(u64, u32)| Backend {
            address: *identity as u32,
            port: 80,
            identity: *identity,
            weight: *weight,
            local: true,
        };
        let list: Vec<_> = identities.iter().map(backend).collect();
        Backends::new(&list).expect("a table")
    }

    fn second(number: u64) -> Tick {
        Tick::from_nanos(number * 1_000_000_000)
    }

    /// A hash that spreads in its upper bits, and the lower ones of clients in a row are all different.
    fn hash(client: u32) -> u64 {
        u64::from(client).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[test]
    fn clients_keep_what_they_had_as_long_as_it_is_there_and_they_come_in_time() {
        let mut affinities = Affinities::default();
        let before = backends(&[(1, 1), (2, 1), (3, 1)]);
        let clients = 0..500_u32;
        let mut ask = |client, backends: &Backends<u32>, at| {
            let chosen = affinities
                .choose((client, 7), hash(client), backends, 100, second(at))
                .unwrap();
            backends.list()[usize::from(chosen)].identity
        };
        let had: Vec<u64> = clients
            .clone()
            .map(|client| ask(client, &before, 1000))
            .collect();
        assert!([1, 2, 3].iter().all(|one| had.contains(one)));
        // More backends, in another order: nobody moves, and those who ask are remembered for longer.
        let more = backends(&[(9, 1), (8, 1), (3, 1), (2, 1), (1, 1)]);
        for client in clients.clone().filter(|client| client % 2 == 0) {
            assert_eq!(ask(client, &more, 1099), had[client as usize]);
        }
        let moved = |client: &u32, now: u64| now != had[*client as usize];
        let mut count = [0; 2];
        for client in clients.clone() {
            let now = ask(client, &more, 1150);
            count[client as usize % 2] += usize::from(moved(&client, now));
        }
        assert_eq!(count[0], 0);
        assert!((60..140).contains(&count[1]), "{count:?}");
        // Who takes no new flows loses its clients, and nobody else does.
        let draining = backends(&[(1, 0), (2, 1), (3, 1), (8, 1), (9, 1)]);
        for client in clients.filter(|client| client % 2 == 0) {
            let now = ask(client, &draining, 1151);
            assert_eq!(moved(&client, now), had[client as usize] == 1);
            assert_ne!(now, 1);
        }
    }

    /// The same clients of another service, and more clients than there is room for.
    #[test]
    fn services_are_apart_and_the_oldest_are_forgotten() {
        let mut affinities = Affinities::default();
        let only = |identity| backends(&[(identity, 1)]);
        let both = backends(&[(1, 1), (2, 1)]);
        let asked = |client, service| (client, service);
        let of = |chosen: Option<u16>| both.list()[usize::from(chosen.unwrap())].identity;
        for service in [1, 2] {
            affinities.choose(asked(5, service), 0, &only(service), 100, second(10));
        }
        for service in [1, 2] {
            let chosen = affinities.choose(asked(5, service), 0, &both, 100, second(11));
            assert_eq!(of(chosen), service);
        }
        // Others with the same hash, one more than there are ways: the service that was asked first has to go.
        let by_hash = of(both.pick(0));
        let other = 3 - by_hash;
        affinities.choose(asked(5, 1), 0, &only(other), 100, second(12));
        for client in 0..WAYS as u32 {
            affinities.choose(asked(100 + client, 1), 0, &both, 100, second(13));
        }
        let chosen = affinities.choose(asked(5, 1), 0, &both, 100, second(14));
        assert_eq!(of(chosen), by_hash);
        // Without backends nothing is remembered.
        let nobody = backends(&[(1, 0)]);
        assert_eq!(
            affinities.choose(asked(6, 1), 0, &nobody, 100, second(14)),
            None
        );
    }
}
