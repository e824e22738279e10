//! Calico's policies.

use super::id::{Order, PolicyKind};
use super::object::Metadata;
use super::reader::Fields;
use super::rule::{Place, Rule, read_rules, read_selector, refuse_global};
use super::selector::Selector;
use super::{Direction, NAMESPACE_LABEL};

/// The tier of policies that name none.
pub const DEFAULT_TIER: &str = "default";

/// Which directions a policy governs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Types {
    /// What comes to endpoints.
    pub ingress: bool,
    /// What endpoints send.
    pub egress: bool,
}

impl Types {
    /// Whether a direction is among them.
    pub fn has(self, direction: Direction) -> bool {
        match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        }
    }
}

/// What a staged policy stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StagedAction {
    /// The policy as it would be, in place of the enforced one of its name if there is one.
    #[default]
    Set,
    /// The enforced policy of its name would go.
    Delete,
    /// As `Set`, while it is being learnt.
    Learn,
    /// Nothing.
    Ignore,
}

/// A policy of any kind, in Calico's terms: Kubernetes' kinds are converted when they are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its tier, which need not exist.
    pub tier: Box<str>,
    /// Where it stands in the tier; last if `None`.
    pub order: Option<Order>,
    /// Which endpoints it applies to, by their labels.
    pub selector: Selector,
    /// Which namespaces' endpoints it applies to.
    pub namespace_selector: Option<Selector>,
    /// Which service accounts' endpoints it applies to.
    pub service_account_selector: Option<Selector>,
    /// Which directions it governs.
    pub types: Types,
    /// What may come to endpoints, first match first.
    pub ingress: Vec<Rule>,
    /// What endpoints may send, first match first.
    pub egress: Vec<Rule>,
    /// Applies to host endpoints before connection tracking.
    pub do_not_track: bool,
    /// Applies to what comes to host endpoints before destination translation.
    pub pre_dnat: bool,
    /// Applies to what is forwarded through host endpoints too.
    pub apply_on_forward: bool,
    /// Of a staged policy; [`StagedAction::Set`] otherwise.
    pub staged_action: StagedAction,
    /// What conversion could not express: path and what was done instead.
    pub notes: Vec<String>,
}

impl Policy {
    /// A policy of the default tier for everything, without rules.
    pub fn new(types: Types) -> Self {
        Self {
            tier: DEFAULT_TIER.into(),
            order: None,
            selector: Selector::all(),
            namespace_selector: None,
            service_account_selector: None,
            types,
            ingress: Vec::new(),
            egress: Vec::new(),
            do_not_track: false,
            pre_dnat: false,
            apply_on_forward: false,
            staged_action: StagedAction::Set,
            notes: Vec::new(),
        }
    }

    /// The rules of a direction.
    pub fn rules(&self, direction: Direction) -> &[Rule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// The one selector that says which endpoints it applies to: its own, its namespace's, and those of namespaces and service accounts.
    pub fn scope(&self, namespace: Option<&str>) -> Selector {
        let own = Some(self.selector.clone()).filter(|selector| *selector != Selector::all());
        let parts: Vec<_> = namespace
            .map(|namespace| Selector::equal(NAMESPACE_LABEL, namespace))
            .into_iter()
            .chain(own)
            .chain(
                self.namespace_selector
                    .as_ref()
                    .map(Selector::of_namespaces),
            )
            .chain(
                self.service_account_selector
                    .as_ref()
                    .map(Selector::of_any_service_account),
            )
            .collect();
        Selector::and(parts)
    }
}

const STAGED: [(&str, StagedAction); 4] = [
    ("Set", StagedAction::Set),
    ("Delete", StagedAction::Delete),
    ("Learn", StagedAction::Learn),
    ("Ignore", StagedAction::Ignore),
];

pub(crate) fn read_staged_action(spec: &mut Fields<'_>) -> StagedAction {
    spec.take("stagedAction")
        .and_then(|node| node.word(&STAGED))
        .unwrap_or_default()
}

/// Which directions a list names; each at most once.
pub(crate) fn read_types(spec: &mut Fields<'_>, name: &'static str) -> Option<Types> {
    const WORDS: [(&str, Direction); 2] = [
        ("Ingress", Direction::Ingress),
        ("Egress", Direction::Egress),
    ];
    let node = spec.take(name)?;
    let mut types = Types::default();
    let entries = node.list(2);
    let some = !entries.is_empty();
    for entry in entries {
        let there = match entry.word(&WORDS) {
            Some(Direction::Ingress) => &mut types.ingress,
            Some(Direction::Egress) => &mut types.egress,
            None => continue,
        };
        if std::mem::replace(there, true) {
            entry.fail("is there twice");
        }
    }
    some.then_some(types)
}

/// Reads the specification of one of Calico's kinds.
pub(crate) fn read_policy(spec: &mut Fields<'_>, kind: PolicyKind, metadata: &Metadata) -> Policy {
    let global = !kind.is_namespaced();
    let mut policy = Policy::new(Types::default());
    if let Some(tier) = spec.take("tier")
        && let Some(name) = tier.text().filter(|name| !name.is_empty())
        && let Some(name) = tier.check(crate::VrfName::new(name))
    {
        policy.tier = name.as_str().into();
    }
    policy.order = spec
        .take("order")
        .and_then(|node| node.number())
        .and_then(Order::new);
    if let Some(selector) = read_selector(spec, "selector") {
        refuse_global(spec, "selector", Some(&selector));
        policy.selector = selector;
    }
    policy.service_account_selector = read_selector(spec, "serviceAccountSelector");
    refuse_global(
        spec,
        "serviceAccountSelector",
        policy.service_account_selector.as_ref(),
    );
    let place = |ingress| Place {
        namespace: metadata.namespace.as_deref(),
        ingress,
        profile: false,
    };
    policy.ingress = read_rules(spec, "ingress", place(true));
    policy.egress = read_rules(spec, "egress", place(false));
    policy.types = read_types(spec, "types").unwrap_or(Types {
        ingress: !policy.ingress.is_empty() || policy.egress.is_empty(),
        egress: !policy.egress.is_empty(),
    });
    spec.list("performanceHints", 8, |node| {
        node.word(&[("AssumeNeededOnEveryNode", ())])
    });
    if kind.is_staged() {
        policy.staged_action = read_staged_action(spec);
    }
    if global {
        read_global(spec, &mut policy);
    }
    policy
}

/// What only global policies may say.
fn read_global(spec: &mut Fields<'_>, policy: &mut Policy) {
    policy.namespace_selector = read_selector(spec, "namespaceSelector");
    policy.do_not_track = spec.bool("doNotTrack").unwrap_or(false);
    policy.pre_dnat = spec.bool("preDNAT").unwrap_or(false);
    let early = policy.do_not_track || policy.pre_dnat;
    let forward = spec.bool("applyOnForward");
    policy.apply_on_forward = forward.unwrap_or(early);
    if early && forward == Some(false) {
        spec.fail(
            "applyOnForward",
            "value is false; with doNotTrack or preDNAT it must be true, because such a policy sees forwarded packets too",
        );
    }
    if policy.do_not_track && policy.pre_dnat {
        spec.fail(
            "preDNAT",
            "value is true; it must not be so together with doNotTrack",
        );
    }
    if policy.pre_dnat && !policy.egress.is_empty() {
        spec.fail("egress", "a preDNAT policy has no egress rules");
    } else if policy.pre_dnat && policy.types.egress {
        spec.fail("types", "a preDNAT policy must be of type Ingress alone");
    }
}
