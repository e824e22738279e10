//! One neighbour's state machine (RFC 4861 section 7.3 and appendix C), for both families.

use std::fmt;

use wire::MacAddr;

use super::config::{NeighbourTimers, Random};

/// What is known about a neighbour's Ethernet address (RFC 4861 section 7.3.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum NeighbourState {
    /// Everybody on the link is asked for the address.
    Incomplete,
    /// The neighbour answered not long ago.
    Reachable,
    /// The address may be outdated; nobody has sent to the neighbour since.
    Stale,
    /// Packets are sent to the address, which may be outdated, and a probe follows soon.
    Delay,
    /// The neighbour itself is asked whether it is still there.
    Probe,
    /// Nobody answered.
    Failed,
    /// The operator configured the address.
    Static,
}

impl NeighbourState {
    /// Whether packets can be sent to a neighbour in this state.
    pub const fn is_resolved(self) -> bool {
        !matches!(self, Self::Incomplete | Self::Failed)
    }

    /// The state as a word for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Incomplete => "incomplete",
            Self::Reachable => "reachable",
            Self::Stale => "stale",
            Self::Delay => "delay",
            Self::Probe => "probe",
            Self::Failed => "failed",
            Self::Static => "static",
        }
    }
}

impl fmt::Display for NeighbourState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What happens to a neighbour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Event {
    /// The data path has packets for it.
    Wanted,
    /// It named its Ethernet address in passing: a solicitation with its address, an ARP request or announcement.
    Heard(MacAddr),
    /// It answered or announced: a neighbour advertisement or ARP reply.
    Advertised(Advertisement),
    /// The deadline has passed; `used` says whether packets were sent to it.
    Timeout {
        /// Asked only where the state is reachable or stale.
        used: bool,
    },
}

/// A neighbour advertisement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Advertisement {
    /// Target link-layer address option.
    pub(super) mac: Option<MacAddr>,
    /// It answers a solicitation.
    pub(super) solicited: bool,
    /// It replaces what is cached.
    pub(super) overrides: bool,
    /// The neighbour is a router; `None` where the protocol does not say.
    pub(super) router: Option<bool>,
}

/// What a transition demands of the cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    /// Nothing beyond what the entry shows.
    Nothing,
    /// Ask everybody on the link.
    SolicitAll,
    /// Ask the neighbour at its address.
    SolicitOne(MacAddr),
    /// The data path missed the address: tell it again.
    Repeat,
    /// The entry is no longer needed.
    Remove,
}

/// What transitions need besides entry and event.
pub(super) struct Context<'a> {
    pub(super) now: u64,
    pub(super) timers: &'a NeighbourTimers,
    pub(super) random: &'a mut Random,
}

impl Context<'_> {
    fn after(&self, time_ns: u64) -> u64 {
        self.now.saturating_add(time_ns.max(1))
    }
}

/// A neighbour.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) state: NeighbourState,
    /// Present exactly where the state is resolved.
    pub(super) mac: Option<MacAddr>,
    /// It is a router, as far as its advertisements say.
    pub(super) router: bool,
    /// When it last answered a solicitation.
    pub(super) confirmed_ns: Option<u64>,
    /// When the state was entered.
    pub(super) since_ns: u64,
    /// When the state ends by itself.
    pub(super) deadline_ns: Option<u64>,
    /// The data path has sent or tried to send to it: it goes before neighbours that only spoke to us.
    pub(super) wanted: bool,
    /// Solicitations sent in this state.
    solicits: u8,
    /// When it was last asked for or the data path told again: what a flood of wishes may cause is limited by it.
    asked_ns: Option<u64>,
}

impl Entry {
    /// A neighbour that the data path has packets for. Everybody is to be asked for it.
    pub(super) fn incomplete(context: &mut Context<'_>) -> Self {
        let mut entry = Self::empty();
        entry.wanted = true;
        entry.start_resolution(context);
        entry
    }

    /// A neighbour that spoke to us.
    pub(super) fn heard(mac: MacAddr, context: &mut Context<'_>) -> Self {
        let mut entry = Self::empty();
        entry.mac = Some(mac);
        entry.enter(NeighbourState::Stale, context);
        entry
    }

    /// A neighbour that the operator configured.
    pub(super) fn fixed(mac: MacAddr) -> Self {
        Self {
            state: NeighbourState::Static,
            mac: Some(mac),
            ..Self::empty()
        }
    }

    /// Whether this neighbour may make room for another.
    pub(super) fn is_evictable(&self) -> bool {
        self.state == NeighbourState::Stale
    }

    /// Whether the next timeout depends on the data path having sent to it.
    pub(super) fn asks_for_use(&self) -> bool {
        matches!(
            self.state,
            NeighbourState::Reachable | NeighbourState::Stale
        )
    }

    /// The transition for an event.
    pub(super) fn on(&mut self, event: Event, context: &mut Context<'_>) -> Effect {
        match event {
            Event::Wanted => self.on_wanted(context),
            Event::Heard(mac) => {
                self.on_heard(mac, context);
                Effect::Nothing
            }
            Event::Advertised(advertisement) => {
                self.on_advertised(advertisement, context);
                Effect::Nothing
            }
            Event::Timeout { used } => self.on_timeout(used, context),
        }
    }

    /// There is no way to reach it.
    pub(super) fn fail(&mut self, context: &mut Context<'_>) {
        self.mac = None;
        self.enter(NeighbourState::Failed, context);
    }

    fn on_wanted(&mut self, context: &mut Context<'_>) -> Effect {
        self.wanted = true;
        let asked_lately = self
            .asked_ns
            .is_some_and(|asked| context.now < asked.saturating_add(context.timers.retransmit_ns));
        match self.state {
            NeighbourState::Incomplete => Effect::Nothing,
            NeighbourState::Failed if asked_lately => Effect::Nothing,
            NeighbourState::Failed => {
                self.start_resolution(context);
                Effect::SolicitAll
            }
            _ => {
                if self.state == NeighbourState::Stale {
                    self.enter(NeighbourState::Delay, context);
                }
                if asked_lately {
                    return Effect::Nothing;
                }
                self.asked_ns = Some(context.now);
                Effect::Repeat
            }
        }
    }

    /// RFC 4861 section 7.2.3, and RFC 826: what a sender says of itself is taken, but confirms nothing.
    fn on_heard(&mut self, mac: MacAddr, context: &mut Context<'_>) {
        if self.state != NeighbourState::Static && self.mac != Some(mac) {
            self.mac = Some(mac);
            self.enter(NeighbourState::Stale, context);
        }
    }

    /// RFC 4861 section 7.2.5. Appendix C leaves a neighbour as it is whose advertisement carries no Ethernet address;
    /// the section, which is followed here, lets a solicited one confirm the cached address.
    fn on_advertised(&mut self, advertisement: Advertisement, context: &mut Context<'_>) {
        let Advertisement {
            mac,
            solicited,
            overrides,
            router,
        } = advertisement;
        if self.state == NeighbourState::Static {
            return;
        }
        let Some(cached) = self.mac else {
            let Some(mac) = mac else {
                self.router = router.unwrap_or(self.router);
                return;
            };
            self.mac = Some(mac);
            self.router = router.unwrap_or(self.router);
            if solicited {
                self.confirm(context);
            } else {
                self.enter(NeighbourState::Stale, context);
            }
            return;
        };
        let other = mac.filter(|mac| *mac != cached);
        if other.is_some() && !overrides {
            if self.state == NeighbourState::Reachable {
                self.enter(NeighbourState::Stale, context);
            }
            return;
        }
        self.mac = other.or(self.mac);
        self.router = router.unwrap_or(self.router);
        if solicited {
            self.confirm(context);
        } else if other.is_some() {
            self.enter(NeighbourState::Stale, context);
        }
    }

    fn on_timeout(&mut self, used: bool, context: &mut Context<'_>) -> Effect {
        match (self.state, self.mac) {
            (NeighbourState::Incomplete, _) => {
                if self.solicits < context.timers.multicast_solicits {
                    self.count_solicit(context);
                    return Effect::SolicitAll;
                }
                self.fail(context);
                Effect::Nothing
            }
            // A neighbour in use does not rest in the stale state until the next look: it could be evicted there.
            (NeighbourState::Reachable | NeighbourState::Stale, _) if used => {
                self.wanted = true;
                self.enter(NeighbourState::Delay, context);
                Effect::Nothing
            }
            (NeighbourState::Reachable, _) => {
                self.enter(NeighbourState::Stale, context);
                Effect::Nothing
            }
            (NeighbourState::Stale, _) => {
                if context.now >= self.since_ns.saturating_add(context.timers.stale_ns) {
                    return Effect::Remove;
                }
                self.deadline_ns = Some(self.next_use_check(context));
                Effect::Nothing
            }
            (NeighbourState::Delay, Some(mac)) => {
                self.enter(NeighbourState::Probe, context);
                self.count_solicit(context);
                Effect::SolicitOne(mac)
            }
            (NeighbourState::Probe, Some(mac)) if self.solicits < context.timers.unicast_probes => {
                self.count_solicit(context);
                Effect::SolicitOne(mac)
            }
            (NeighbourState::Delay | NeighbourState::Probe, _) => {
                self.fail(context);
                Effect::Nothing
            }
            (NeighbourState::Failed, _) => Effect::Remove,
            (NeighbourState::Static, _) => {
                self.deadline_ns = None;
                Effect::Nothing
            }
        }
    }

    fn start_resolution(&mut self, context: &mut Context<'_>) {
        self.enter(NeighbourState::Incomplete, context);
        self.count_solicit(context);
    }

    fn confirm(&mut self, context: &mut Context<'_>) {
        self.confirmed_ns = Some(context.now);
        self.enter(NeighbourState::Reachable, context);
    }

    fn count_solicit(&mut self, context: &Context<'_>) {
        self.solicits = self.solicits.saturating_add(1);
        self.asked_ns = Some(context.now);
        self.deadline_ns = Some(context.after(context.timers.retransmit_ns));
    }

    fn enter(&mut self, state: NeighbourState, context: &mut Context<'_>) {
        self.state = state;
        self.since_ns = context.now;
        self.solicits = 0;
        let timers = context.timers;
        self.deadline_ns = match state {
            NeighbourState::Incomplete | NeighbourState::Probe => {
                Some(context.after(timers.retransmit_ns))
            }
            NeighbourState::Reachable => {
                let reachable_ns = context.random.around(timers.reachable_ns);
                Some(context.after(reachable_ns))
            }
            NeighbourState::Stale => Some(self.next_use_check(context)),
            NeighbourState::Delay => Some(context.after(timers.delay_ns)),
            NeighbourState::Failed => Some(context.after(timers.failed_ns)),
            NeighbourState::Static => None,
        };
    }

    /// The next common moment of looking at use, or the end of the stale state where that is earlier.
    fn next_use_check(&self, context: &Context<'_>) -> u64 {
        let period = context.timers.use_check_ns.max(1);
        let check = (context.now / period)
            .saturating_add(1)
            .saturating_mul(period);
        let end = self.since_ns.saturating_add(context.timers.stale_ns);
        check.min(end).max(context.after(1))
    }

    fn empty() -> Self {
        Self {
            state: NeighbourState::Incomplete,
            mac: None,
            router: false,
            confirmed_ns: None,
            since_ns: 0,
            deadline_ns: None,
            wanted: false,
            solicits: 0,
            asked_ns: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::NeighbourState::{Delay, Failed, Incomplete, Probe, Reachable, Stale, Static};
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    /// The cached address and another one.
    const A: MacAddr = MacAddr::local(1);
    const B: MacAddr = MacAddr::local(2);
    const NOW: u64 = 1_000 * SECOND;

    fn run<T>(now: u64, f: impl FnOnce(&mut Context<'_>) -> T) -> T {
        let timers = NeighbourTimers::default();
        let mut random = Random::new(1);
        f(&mut Context {
            now,
            timers: &timers,
            random: &mut random,
        })
    }

    /// An entry in this state, in which `solicits` were sent; entered a second ago.
    fn entry(state: NeighbourState, solicits: u8) -> Entry {
        let mut entry = Entry::empty();
        entry.mac = state.is_resolved().then_some(A);
        run(NOW - SECOND, |context| entry.enter(state, context));
        entry.solicits = solicits;
        entry
    }

    fn na(mac: Option<MacAddr>, solicited: bool, overrides: bool) -> Event {
        Event::Advertised(Advertisement {
            mac,
            solicited,
            overrides,
            router: Some(true),
        })
    }

    const TIMEOUT: Event = Event::Timeout { used: false };
    const USED: Event = Event::Timeout { used: true };

    /// RFC 4861 appendix C, row by row: states, solicits sent, event, state after, address after, effect.
    #[test]
    fn appendix_c() {
        use Effect::{Nothing, Remove, Repeat, SolicitAll, SolicitOne};
        let all_with_mac = [Reachable, Stale, Delay, Probe];
        type Row<'a> = (
            &'a [NeighbourState],
            u8,
            Event,
            Option<NeighbourState>,
            Option<MacAddr>,
            Effect,
        );
        // A new state of `None` says "unchanged".
        let rows: &[Row<'_>] = &[
            // Retransmit timeout, fewer than N retransmissions; then N.
            (&[Incomplete], 1, TIMEOUT, None, None, SolicitAll),
            (&[Incomplete], 2, TIMEOUT, None, None, SolicitAll),
            (&[Incomplete], 3, TIMEOUT, Some(Failed), None, Nothing),
            // NA with an address, solicited or not, override or not.
            (
                &[Incomplete, Failed],
                1,
                na(Some(B), false, false),
                Some(Stale),
                Some(B),
                Nothing,
            ),
            (
                &[Incomplete, Failed],
                1,
                na(Some(B), false, true),
                Some(Stale),
                Some(B),
                Nothing,
            ),
            (
                &[Incomplete, Failed],
                1,
                na(Some(B), true, false),
                Some(Reachable),
                Some(B),
                Nothing,
            ),
            (
                &[Incomplete, Failed],
                1,
                na(Some(B), true, true),
                Some(Reachable),
                Some(B),
                Nothing,
            ),
            // NA without an address.
            (
                &[Incomplete, Failed],
                1,
                na(None, true, true),
                None,
                None,
                Nothing,
            ),
            (
                &[Incomplete, Failed],
                1,
                na(None, false, false),
                None,
                None,
                Nothing,
            ),
            // NA, solicited, no override, same address.
            (
                &all_with_mac,
                1,
                na(Some(A), true, false),
                Some(Reachable),
                Some(A),
                Nothing,
            ),
            // NA without an address: section 7.2.5 goes before appendix C where it is solicited.
            (
                &all_with_mac,
                1,
                na(None, true, false),
                Some(Reachable),
                Some(A),
                Nothing,
            ),
            (
                &all_with_mac,
                1,
                na(None, true, true),
                Some(Reachable),
                Some(A),
                Nothing,
            ),
            (
                &all_with_mac,
                1,
                na(None, false, false),
                None,
                Some(A),
                Nothing,
            ),
            (
                &all_with_mac,
                1,
                na(None, false, true),
                None,
                Some(A),
                Nothing,
            ),
            // NA, no override, different address.
            (
                &[Reachable],
                0,
                na(Some(B), true, false),
                Some(Stale),
                Some(A),
                Nothing,
            ),
            (
                &[Stale, Delay, Probe],
                1,
                na(Some(B), true, false),
                None,
                Some(A),
                Nothing,
            ),
            (
                &[Reachable],
                0,
                na(Some(B), false, false),
                Some(Stale),
                Some(A),
                Nothing,
            ),
            (
                &[Stale, Delay, Probe],
                1,
                na(Some(B), false, false),
                None,
                Some(A),
                Nothing,
            ),
            // NA, solicited, override: any address.
            (
                &all_with_mac,
                1,
                na(Some(A), true, true),
                Some(Reachable),
                Some(A),
                Nothing,
            ),
            (
                &all_with_mac,
                1,
                na(Some(B), true, true),
                Some(Reachable),
                Some(B),
                Nothing,
            ),
            // NA, not solicited, same address.
            (
                &all_with_mac,
                1,
                na(Some(A), false, false),
                None,
                Some(A),
                Nothing,
            ),
            (
                &all_with_mac,
                1,
                na(Some(A), false, true),
                None,
                Some(A),
                Nothing,
            ),
            // NA, not solicited, override, different address.
            (
                &all_with_mac,
                1,
                na(Some(B), false, true),
                Some(Stale),
                Some(B),
                Nothing,
            ),
            // Time passes.
            (&[Reachable], 0, TIMEOUT, Some(Stale), Some(A), Nothing),
            (&[Reachable], 0, USED, Some(Delay), Some(A), Nothing),
            (&[Stale], 0, TIMEOUT, None, Some(A), Nothing),
            (&[Stale], 0, USED, Some(Delay), Some(A), Nothing),
            (&[Stale], 0, Event::Wanted, Some(Delay), Some(A), Repeat),
            (&[Delay], 0, TIMEOUT, Some(Probe), Some(A), SolicitOne(A)),
            (&[Probe], 1, TIMEOUT, None, Some(A), SolicitOne(A)),
            (&[Probe], 2, TIMEOUT, None, Some(A), SolicitOne(A)),
            (&[Probe], 3, TIMEOUT, Some(Failed), None, Nothing),
            (&[Failed], 0, TIMEOUT, None, None, Remove),
            // NS or RS with an address; ARP request or announcement.
            (
                &[Incomplete, Failed],
                1,
                Event::Heard(B),
                Some(Stale),
                Some(B),
                Nothing,
            ),
            (
                &all_with_mac,
                1,
                Event::Heard(B),
                Some(Stale),
                Some(B),
                Nothing,
            ),
            (&all_with_mac, 1, Event::Heard(A), None, Some(A), Nothing),
            // Packets to send.
            (&[Incomplete], 1, Event::Wanted, None, None, Nothing),
            (
                &[Failed],
                0,
                Event::Wanted,
                Some(Incomplete),
                None,
                SolicitAll,
            ),
            (
                &[Reachable, Delay, Probe, Static],
                1,
                Event::Wanted,
                None,
                Some(A),
                Repeat,
            ),
            // The operator knows better than the link.
            (
                &[Static],
                0,
                na(Some(B), true, true),
                None,
                Some(A),
                Nothing,
            ),
            (&[Static], 0, Event::Heard(B), None, Some(A), Nothing),
            (&[Static], 0, TIMEOUT, None, Some(A), Nothing),
        ];
        for (states, solicits, event, state, mac, effect) in rows {
            for &before in *states {
                let mut entry = entry(before, *solicits);
                let got = run(NOW, |context| entry.on(*event, context));
                let expected = (state.unwrap_or(before), *mac, *effect);
                assert_eq!(
                    (entry.state, entry.mac, got),
                    expected,
                    "{before} {event:?}"
                );
                let ends = entry.deadline_ns.is_none_or(|deadline| deadline > NOW);
                assert!(
                    ends || *effect == Remove || event != &TIMEOUT,
                    "{before} {event:?}"
                );
                let confirmed = entry.confirmed_ns == Some(NOW);
                let answered = matches!(event, Event::Advertised(na) if na.solicited)
                    && entry.state == Reachable;
                assert_eq!(confirmed, answered, "{before} {event:?}");
            }
        }
    }

    #[test]
    fn router_flag_follows_advertisements_that_are_accepted() {
        for (event, router) in [
            (na(None, false, false), true),
            (na(Some(A), true, false), true),
            (na(Some(B), false, true), true),
            (na(Some(B), true, false), false),
            (Event::Heard(B), false),
        ] {
            let mut entry = entry(Reachable, 0);
            run(NOW, |context| entry.on(event, context));
            assert_eq!(entry.router, router, "{event:?}");
        }
        let mut incomplete = entry(Incomplete, 1);
        run(NOW, |context| {
            incomplete.on(na(None, false, false), context)
        });
        assert!(incomplete.router);
    }

    #[test]
    fn deadlines_of_states() {
        for (state, delays) in [
            (Incomplete, SECOND..=SECOND),
            (Reachable, 15 * SECOND..=45 * SECOND),
            (Delay, 5 * SECOND..=5 * SECOND),
            (Probe, SECOND..=SECOND),
            (Failed, 3 * SECOND..=3 * SECOND),
            (Stale, 1..=SECOND),
        ] {
            let mut entry = Entry::empty();
            run(NOW + 7, |context| entry.enter(state, context));
            let delay = entry.deadline_ns.unwrap() - (NOW + 7);
            assert!(delays.contains(&delay), "{state}: {delay}");
        }
        assert_eq!(Entry::fixed(A).deadline_ns, None);
    }

    #[test]
    fn unused_stale_neighbours_end_after_ten_minutes() {
        let mut stale = run(NOW, |context| Entry::heard(A, context));
        let now = loop {
            let now = stale.deadline_ns.unwrap();
            assert!(now <= NOW + 600 * SECOND);
            if run(now, |context| stale.on(TIMEOUT, context)) == Effect::Remove {
                break now;
            }
        };
        assert_eq!(now, NOW + 600 * SECOND);
    }

    #[test]
    fn wishes_cause_one_question_a_second() {
        for mut entry in [entry(Failed, 0), entry(Static, 0), entry(Reachable, 0)] {
            let mut effects = 0;
            for now in (NOW..NOW + 10 * SECOND).step_by(10_000_000) {
                run(now, |context| {
                    if entry.on(Event::Wanted, context) != Effect::Nothing {
                        effects += 1;
                    }
                    // Nobody answers.
                    if entry.state == Incomplete {
                        entry.fail(context);
                    }
                });
            }
            assert_eq!(effects, 10, "{}", entry.state);
        }
    }

    #[test]
    fn states_have_names() {
        assert_eq!(
            format!("{Incomplete:>11}|{Static:<7}|"),
            " incomplete|static |"
        );
    }
}
