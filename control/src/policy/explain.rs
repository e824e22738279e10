//! Answers about packets, from the compiled tables.

use std::collections::BTreeMap;

use model::policy::reference::{EndpointId, Reason};
use model::policy::{NamespacedName, PolicyState};
use serde::Serialize;

use super::Question;
use crate::compile::policy::{CompiledPolicy, Judged, PolicyCompiler, PolicyError, Reasons};

/// A compiled state that can be asked.
#[derive(Debug)]
pub struct Explainer {
    compiled: CompiledPolicy,
    reasons: Reasons,
    /// By workload whose node has one: the host endpoint for all interfaces.
    all_interfaces: BTreeMap<NamespacedName, Box<str>>,
}

/// An answer as `oncilla explain` prints it in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// `allow` or `deny`.
    pub verdict: &'static str,
    /// The tier, where one decided.
    pub tier: Option<String>,
    /// The policy or profile whose rule decided: `namespace/name` or `name`.
    pub policy: Option<String>,
    /// The position of the rule that decided among the policy's of the direction, from 0.
    pub rule: Option<usize>,
    /// What would happen if staged policies were enforced.
    pub staged_verdict: &'static str,
}

/// An answer for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Whether the packet passes.
    pub allow: bool,
    /// What decided, in words.
    pub why: String,
    /// Whether it would pass if staged policies were enforced.
    pub staged_allow: bool,
    /// What would decide then.
    pub staged_why: String,
    /// Rules that log the packet.
    pub logs: Vec<String>,
    /// Whether the flow goes untracked.
    pub untracked: bool,
    /// What the host endpoint for all interfaces says, which judges on workloads' interfaces too, where a rule or tier of its decides.
    pub all_interfaces: Option<AllInterfaces>,
}

/// What the host endpoint for all interfaces says about a workload's packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllInterfaces {
    /// Its name.
    pub endpoint: Box<str>,
    /// Whether the packet passes as far as it goes.
    pub allow: bool,
    /// What decided, in words.
    pub why: String,
}

fn word(allow: bool) -> &'static str {
    if allow { "allow" } else { "deny" }
}

impl Explainer {
    /// Compiles a state.
    ///
    /// # Errors
    ///
    /// The sets that its policies need do not fit.
    pub fn new(state: &PolicyState) -> Result<Self, PolicyError> {
        let mut compiler = PolicyCompiler::new()?;
        let all_interfaces = state
            .workload_endpoints
            .iter()
            .filter_map(|(id, workload)| {
                let (host, _) = state.host_endpoint_of_all(&workload.node)?;
                Some((id.clone(), host.into()))
            });
        Ok(Self {
            compiled: compiler.compile(state, None)?,
            reasons: compiler.reasons,
            all_interfaces: all_interfaces.collect(),
        })
    }

    /// Answers for programs.
    pub fn answer(&self, question: &Question) -> Answer {
        let verdict = self
            .compiled
            .judge(&question.endpoint, question.direction, &question.packet);
        let reason = self.reasons.reason(verdict.enforced.rule);
        Answer {
            verdict: word(verdict.enforced.allow),
            tier: reason.and_then(Reason::tier).map(str::to_owned),
            policy: reason.and_then(Reason::policy),
            rule: reason.and_then(Reason::rule),
            staged_verdict: word(verdict.staged.allow),
        }
    }

    /// Answers for people.
    pub fn explain(&self, question: &Question) -> Explanation {
        let verdict = self
            .compiled
            .judge(&question.endpoint, question.direction, &question.packet);
        let why = |judged: Judged| self.reasons.reason(judged.rule).map(words);
        let logs = verdict.logs.iter();
        Explanation {
            allow: verdict.enforced.allow,
            why: why(verdict.enforced).unwrap_or_default(),
            staged_allow: verdict.staged.allow,
            staged_why: why(verdict.staged).unwrap_or_default(),
            logs: logs
                .filter_map(|rule| self.reasons.reason(*rule).map(words))
                .collect(),
            untracked: verdict.untracked,
            all_interfaces: self.all_interfaces(question),
        }
    }

    fn all_interfaces(&self, question: &Question) -> Option<AllInterfaces> {
        let EndpointId::Workload(id) = &question.endpoint else {
            return None;
        };
        let endpoint = self.all_interfaces.get(id)?;
        let verdict =
            self.compiled
                .judge_all_interfaces(endpoint, question.direction, &question.packet)?;
        let reason = self.reasons.reason(verdict.enforced.rule)?;
        reason.tier().is_some().then(|| AllInterfaces {
            endpoint: endpoint.clone(),
            allow: verdict.enforced.allow,
            why: words(reason),
        })
    }
}

/// What decided, in words.
fn words(reason: &Reason) -> String {
    match reason {
        Reason::Rule(rule) => format!(
            "rule {} of {} {} in tier {}",
            rule.rule, rule.policy.kind, rule.policy, rule.tier
        ),
        Reason::EndOfTier { tier } => {
            format!("end of tier {tier}: its policies apply, and no rule matches")
        }
        Reason::Profile { profile, rule } => format!("rule {rule} of profile {profile}"),
        Reason::MissingProfile { profile } => format!("profile {profile} does not exist"),
        other => other.as_str().to_owned(),
    }
}
