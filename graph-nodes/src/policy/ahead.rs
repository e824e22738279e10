//! Judgements made ahead: a classifier answers about 32 packets in little more time than about four. So before a frame's new
//! packets are decided about one by one, the lists that each will be asked about are asked about all of them.
//!
//! This is about time only. [`decide`](super::decide::decide) says which lists are asked, in which order, and what their answers
//! mean; [`Ahead`] has the answer ready where it was foreseen that the list would be asked, and asks it where not.

use dataplane::FRAME_SIZE;
use tables::acl::Key;

use super::counters::WorkerRules;
use super::decide::{Asking, Way};
use super::program::Scratch;
use super::{
    EGRESS, EndpointKind, INGRESS, INPUT, InterfacePolicy, JudgedAddress, Judgement, Lists, OUTPUT,
    Program,
};

/// Lists that are asked ahead about one packet: access list and policy where it comes in, policy and access list where it goes
/// out.
const PLACES: usize = 4;
/// Programs that one frame's packets are asked about ahead; what meets others is judged as it comes.
const PROGRAMS: usize = 16;
/// No program.
const NONE: u8 = u8::MAX;

/// What was foreseen about the packets of one frame, by slot: their position among those that are to be decided about.
pub(super) struct Foreseen {
    /// By place and slot: which program was asked, and what it said.
    programs: Box<[[u8; FRAME_SIZE]; PLACES]>,
    judged: Box<[[Judgement; FRAME_SIZE]; PLACES]>,
    /// By slot: whether some list denies.
    denied: Box<[bool; FRAME_SIZE]>,
}

/// The programs that were asked.
#[derive(Clone, Copy, Default)]
pub(super) struct Asked<'a> {
    programs: [Option<&'a Program>; PROGRAMS],
    count: usize,
}

/// Memory for the work.
pub(super) struct Hearing<A> {
    slots: Box<[u8]>,
    keys: Box<[Key<A>]>,
    judged: Box<[Judgement]>,
    scratch: Scratch<A>,
}

/// The answers about one packet, those that are not there made now; counts what is asked for.
#[derive(Clone, Copy)]
pub(super) struct Ahead<'a> {
    pub(super) foreseen: &'a Foreseen,
    pub(super) asked: &'a Asked<'a>,
    pub(super) slot: usize,
    pub(super) counters: WorkerRules<'a>,
}

/// The lists that a packet is likely to be asked about, in that order.
pub(super) fn lists<'a>(
    input: Option<&'a InterfacePolicy>,
    way: Way<'a>,
    untracked: bool,
) -> [Option<&'a Program>; PLACES] {
    let access = |policy: &'a InterfacePolicy, direction: usize| {
        let list = policy.access[direction].as_deref();
        list.map(|list| &list.program)
    };
    let mut lists = [None; PLACES];
    if let Some(policy) = input {
        let endpoint = &policy.lists;
        lists[0] = access(policy, INPUT);
        lists[1] = match policy.kind {
            EndpointKind::Workload if !policy.closed => endpoint.normal[EGRESS].as_deref(),
            EndpointKind::Host if !untracked => endpoint.pre_dnat.as_deref().or({
                let behind = match way {
                    Way::Host => &endpoint.normal,
                    Way::Out(_) | Way::Nowhere => &endpoint.forward,
                };
                behind[INGRESS].as_deref()
            }),
            _ => None,
        };
    }
    if let Way::Out(Some(policy)) = way {
        lists[2] = match policy.kind {
            EndpointKind::Workload if !policy.closed => policy.lists.normal[INGRESS].as_deref(),
            EndpointKind::Host => policy.lists.forward[EGRESS].as_deref(),
            _ => None,
        };
        lists[3] = access(policy, OUTPUT);
    }
    lists
}

impl Default for Foreseen {
    fn default() -> Self {
        Self {
            programs: Box::new([[NONE; FRAME_SIZE]; PLACES]),
            judged: Box::new([[Judgement::UNDECIDED; FRAME_SIZE]; PLACES]),
            denied: Box::new([false; FRAME_SIZE]),
        }
    }
}

impl<A: JudgedAddress> Default for Hearing<A> {
    fn default() -> Self {
        Self {
            slots: vec![0; FRAME_SIZE].into(),
            keys: vec![Key::default(); FRAME_SIZE].into(),
            judged: vec![Judgement::UNDECIDED; FRAME_SIZE].into(),
            scratch: Scratch::new(FRAME_SIZE),
        }
    }
}

impl<'a> Asked<'a> {
    /// The program's number, a new one where it has none yet.
    fn number(&mut self, program: &'a Program) -> u8 {
        let known = self.programs[..self.count].iter().flatten();
        let mut same = known
            .enumerate()
            .filter(|(_, of)| std::ptr::eq(**of, program));
        if let Some((number, _)) = same.next() {
            return number as u8;
        }
        if self.count == PROGRAMS {
            return NONE;
        }
        self.programs[self.count] = Some(program);
        self.count += 1;
        (self.count - 1) as u8
    }
}

impl Foreseen {
    /// Asks about packets whose keys are given. `lists` says for a slot which lists its packet will meet, and in front of which
    /// slot those of the next packets end.
    pub(super) fn foresee<'a, A: JudgedAddress>(
        &mut self,
        keys: &[Key<A>],
        mut lists: impl FnMut(usize) -> ([Option<&'a Program>; PLACES], usize),
        hearing: &mut Hearing<A>,
    ) -> Asked<'a> {
        let count = keys.len();
        let mut asked = Asked::default();
        let mut used = [false; PLACES];
        // All packets meet the same.
        let mut alike = false;
        let mut slot = 0;
        while slot < count {
            let (lists, end) = lists(slot);
            let end = end.clamp(slot + 1, count);
            alike = slot == 0 && end == count;
            for ((list, programs), used) in
                lists.iter().zip(self.programs.iter_mut()).zip(&mut used)
            {
                let number = list.map_or(NONE, |list| asked.number(list));
                programs[slot..end].fill(number);
                *used |= number != NONE;
            }
            slot = end;
        }
        self.denied[..count].fill(false);
        let mut denied = false;
        for place in (0..PLACES).filter(|place| used[*place]) {
            if alike && !denied {
                let number = usize::from(self.programs[place][0]);
                if let Some(Some(program)) = asked.programs.get(number) {
                    denied = self.ask_all(place, program, keys, hearing);
                }
                continue;
            }
            for (number, program) in asked.programs.iter().flatten().enumerate() {
                self.ask(place, number as u8, program, keys, hearing);
            }
        }
        asked
    }

    /// Asks one program about all packets; says whether it denies any of them.
    fn ask_all<A: JudgedAddress>(
        &mut self,
        place: usize,
        program: &Program,
        keys: &[Key<A>],
        hearing: &mut Hearing<A>,
    ) -> bool {
        let answers = &mut self.judged[place][..keys.len()];
        program.judge_all(keys, answers, &mut hearing.scratch);
        let mut any = false;
        for (denied, judgement) in self.denied.iter_mut().zip(answers) {
            *denied = !judgement.allow;
            any |= !judgement.allow;
        }
        any
    }

    /// Asks one program about those packets that meet it at this place and that no list in front of it denies.
    fn ask<A: JudgedAddress>(
        &mut self,
        place: usize,
        number: u8,
        program: &Program,
        keys: &[Key<A>],
        hearing: &mut Hearing<A>,
    ) {
        let Hearing {
            slots,
            keys: gathered,
            judged,
            scratch,
        } = hearing;
        let mut count = 0;
        let (programs, denied) = (&self.programs[place], &self.denied);
        for (slot, (of, denied)) in programs
            .iter()
            .zip(denied.iter())
            .enumerate()
            .take(keys.len())
        {
            slots[count] = slot as u8;
            count += usize::from((*of == number) & !denied);
        }
        let slots = &slots[..count];
        let answers = &mut self.judged[place];
        for (key, slot) in gathered.iter_mut().zip(slots) {
            *key = keys[usize::from(*slot)];
        }
        program.judge_all(&gathered[..count], &mut judged[..count], scratch);
        for (slot, judgement) in slots.iter().zip(judged) {
            let slot = usize::from(*slot);
            answers[slot] = *judgement;
            self.denied[slot] = !judgement.allow;
        }
    }

    /// Whether it was foreseen that some list denies the packet.
    #[inline]
    pub(super) fn is_denied(&self, slot: usize) -> bool {
        self.denied[slot % FRAME_SIZE]
    }

    /// What the access list says where the packet came in; it must have one that was asked.
    #[inline(always)]
    pub(super) fn access(&self, slot: usize) -> Option<Judgement> {
        let slot = slot % FRAME_SIZE;
        (self.programs[0][slot] != NONE).then_some(self.judged[0][slot])
    }

    fn answer(&self, slot: usize, asked: &Asked<'_>, program: &Program) -> Option<Judgement> {
        let slot = slot % FRAME_SIZE;
        let is = |place: &usize| {
            let number = usize::from(self.programs[*place][slot]);
            let of = asked.programs.get(number).copied().flatten();
            of.is_some_and(|of| std::ptr::eq(of, program))
        };
        let mut places = (0..PLACES).filter(is);
        // Denied at one place, it was not asked about at those behind.
        let place = places.next()?;
        let before = (0..place)
            .all(|place| self.programs[place][slot] == NONE || self.judged[place][slot].allow);
        before.then_some(self.judged[place][slot])
    }
}

impl Asking for Ahead<'_> {
    #[inline(always)]
    fn lists<'p>(&self, policy: &'p InterfacePolicy) -> &'p Lists {
        &policy.lists
    }

    #[inline]
    fn judge<A: JudgedAddress>(&mut self, program: &Program, key: &Key<A>) -> Judgement {
        let answer = self.foreseen.answer(self.slot, self.asked, program);
        #[cfg(test)]
        assert!(answer.is_none_or(|answer| answer == program.judge(key)));
        let judgement = answer.unwrap_or_else(|| program.judge(key));
        self.counters.count(judgement);
        judgement
    }
}
