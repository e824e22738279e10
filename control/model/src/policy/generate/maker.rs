//! The documents of a random state.

use super::super::{Labels, Value};
use super::{Random, any_address, any_net, port};

const NAMESPACES: [&str; 3] = ["blue", "green", "red"];
const NODES: [&str; 2] = ["n1", "n2"];
const ACCOUNTS: [&str; 2] = ["admin", "web"];
const LABELS: [&str; 4] = ["app", "role", "env", "x.io/y"];
const VALUES: [&str; 5] = ["a", "b", "ab", "web", ""];
const PORT_NAMES: [&str; 3] = ["http", "dns", "metrics-2"];
const TIERS: [&str; 5] = ["first", "second", "third", "default", "nowhere"];
const PROTOCOLS: [&str; 6] = ["TCP", "UDP", "SCTP", "ICMP", "ICMPv6", "UDPLite"];

/// Makes documents.
pub(super) struct Maker {
    random: Random,
    documents: Vec<Value>,
}

/// Fields of an object, as they are added.
type Entries = Vec<(&'static str, Value)>;

impl Maker {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            documents: Vec::new(),
        }
    }

    pub(super) fn documents(mut self, size: usize) -> Vec<Value> {
        self.surroundings(size);
        self.endpoints(size);
        for index in 0..size.max(1) {
            self.policy(index);
        }
        self.documents
    }

    fn add(
        &mut self,
        (version, kind): (&str, &str),
        namespace: Option<&str>,
        name: &str,
        labels: &Labels,
        body: Entries,
    ) {
        let mut metadata = vec![("name", Value::from(name))];
        if let Some(namespace) = namespace {
            metadata.push(("namespace", namespace.into()));
        }
        if !labels.is_empty() {
            let labels = labels
                .iter()
                .map(|(label, value)| (label.clone(), value.as_str().into()));
            metadata.push(("labels", Value::map(labels)));
        }
        let mut entries = vec![
            ("apiVersion", version.into()),
            ("kind", kind.into()),
            ("metadata", Value::map(metadata)),
        ];
        entries.extend(body);
        self.documents.push(Value::map(entries));
    }

    fn spec(
        &mut self,
        kind: (&str, &str),
        namespace: Option<&str>,
        name: &str,
        labels: &Labels,
        spec: Entries,
    ) {
        let body = vec![("spec", Value::map(spec))];
        self.add(kind, namespace, name, labels, body);
    }

    fn labels(&mut self) -> Labels {
        let mut labels = Labels::new();
        for label in LABELS {
            if self.random.one_in(2) {
                let value = *self.random.pick(&VALUES);
                labels.insert(label.into(), value.into());
            }
        }
        labels
    }

    /// Everything but endpoints and policies.
    fn surroundings(&mut self, size: usize) {
        let none = Labels::new();
        for namespace in NAMESPACES {
            let labels = self.labels();
            self.add(("v1", "Namespace"), None, namespace, &labels, Vec::new());
            for account in ACCOUNTS {
                let labels = self.labels();
                let kind = ("v1", "ServiceAccount");
                self.add(kind, Some(namespace), account, &labels, Vec::new());
            }
            self.slice(namespace);
        }
        for tier in &TIERS[..3] {
            let mut spec = Vec::new();
            if !self.random.one_in(4) {
                // Two of a few values are likely the same.
                spec.push(("order", Value::Integer(self.below(3) * 1_000_000)));
            }
            let action = *self.random.pick(&["Deny", "Pass", "Pass"]);
            spec.push(("defaultAction", action.into()));
            self.spec(calico("Tier"), None, tier, &none, spec);
        }
        for index in 0..2 {
            let mut spec = self.rules(None, true);
            let labels = self.labels();
            let labels = labels
                .iter()
                .map(|(label, value)| (label.clone(), value.as_str().into()));
            spec.push(("labelsToApply", Value::map(labels)));
            self.spec(calico("Profile"), None, &format!("p{index}"), &none, spec);
        }
        for index in 0..(size / 2).max(2) {
            let labels = self.labels();
            let nets: Vec<_> = (0..self.random.below(4))
                .map(|_| {
                    let v6 = self.random.one_in(3);
                    any_net(&mut self.random, v6)
                })
                .collect();
            let spec = vec![("nets", Value::texts(nets))];
            let name = format!("set{index}");
            if self.random.one_in(2) {
                let namespace = Some(*self.random.pick(&NAMESPACES));
                self.spec(calico("NetworkSet"), namespace, &name, &labels, spec);
            } else {
                self.spec(calico("GlobalNetworkSet"), None, &name, &labels, spec);
            }
        }
        self.felix();
    }

    fn below(&mut self, bound: usize) -> i64 {
        i64::try_from(self.random.below(bound)).unwrap_or(0)
    }

    fn slice(&mut self, namespace: &str) {
        let v6 = self.random.one_in(3);
        let addresses: Vec<_> = (0..3)
            .map(|_| any_address(&mut self.random, v6).to_string())
            .collect();
        let ports: Vec<_> = (0..2)
            .map(|_| {
                let port = i64::from(port(&mut self.random));
                let protocol = *self.random.pick(&["TCP", "UDP"]);
                Value::map([("port", port.into()), ("protocol", protocol.into())])
            })
            .collect();
        let endpoint = Value::map([("addresses", Value::texts(addresses))]);
        let body = vec![
            ("addressType", if v6 { "IPv6" } else { "IPv4" }.into()),
            ("endpoints", vec![endpoint].into()),
            ("ports", ports.into()),
        ];
        let labels = Labels::from([("kubernetes.io/service-name".into(), "svc".into())]);
        let kind = ("discovery.k8s.io/v1", "EndpointSlice");
        self.add(kind, Some(namespace), "svc-1", &labels, body);
    }

    fn felix(&mut self) {
        let none = Labels::new();
        for name in ["default", "node.n1"] {
            let mut spec = Vec::new();
            if self.random.one_in(2) {
                let action = *self.random.pick(&["Drop", "Accept", "Return"]);
                spec.push(("defaultEndpointToHostAction", action.into()));
            }
            if self.random.one_in(3) {
                spec.push(("allowVXLANPacketsFromWorkloads", true.into()));
                spec.push(("allowIPIPPacketsFromWorkloads", true.into()));
            }
            if self.random.one_in(3) {
                let net = any_net(&mut self.random, false);
                let port = i64::from(port(&mut self.random));
                let entry = Value::map([
                    ("protocol", "TCP".into()),
                    ("net", net.into()),
                    ("port", port.into()),
                ]);
                let field = *self
                    .random
                    .pick(&["failsafeInboundHostPorts", "failsafeOutboundHostPorts"]);
                spec.push((field, vec![entry].into()));
            }
            if self.random.one_in(2) {
                self.spec(calico("FelixConfiguration"), None, name, &none, spec);
            }
        }
    }

    fn ports_of_endpoint(&mut self) -> Value {
        let ports = (0..self.random.below(3))
            .map(|_| {
                let name = *self.random.pick(&PORT_NAMES);
                let protocol = *self.random.pick(&["TCP", "UDP", "SCTP"]);
                let port = i64::from(port(&mut self.random)).max(1);
                Value::map([
                    ("name", name.into()),
                    ("protocol", protocol.into()),
                    ("port", port.into()),
                ])
            })
            .collect::<Vec<_>>();
        ports.into()
    }

    fn endpoints(&mut self, size: usize) {
        for index in 0..(2 * size).max(4) {
            let labels = self.labels();
            let namespace = *self.random.pick(&NAMESPACES);
            let account = *self.random.pick(&ACCOUNTS);
            let mut profiles = Vec::new();
            if !self.random.one_in(8) {
                profiles.push(format!("kns.{namespace}"));
            }
            if self.random.one_in(2) {
                profiles.push(format!("ksa.{namespace}.{account}"));
            }
            if self.random.one_in(6) {
                let other = *self.random.pick(&["p0", "p1", "missing"]);
                profiles.insert(self.random.below(profiles.len() + 1), other.into());
            }
            let v6 = any_address(&mut self.random, true);
            let addresses = [any_address(&mut self.random, false), v6].map(|ip| ip.to_string());
            let mut spec = vec![
                ("node", (*self.random.pick(&NODES)).into()),
                ("interfaceName", format!("cali{index}").into()),
                ("ipNetworks", Value::texts(addresses)),
                ("profiles", Value::texts(profiles)),
                ("ports", self.ports_of_endpoint()),
            ];
            if !self.random.one_in(5) {
                spec.push(("orchestrator", "k8s".into()));
            }
            if self.random.one_in(2) {
                spec.push(("serviceAccountName", account.into()));
            }
            let name = format!("w{index}");
            self.spec(
                calico("WorkloadEndpoint"),
                Some(namespace),
                &name,
                &labels,
                spec,
            );
        }
        for (index, node) in NODES.iter().cycle().take(4).enumerate() {
            let labels = self.labels();
            let interface = *self.random.pick(&["eth0", "eth1", "*", ""]);
            let v6 = any_address(&mut self.random, true);
            let addresses = [any_address(&mut self.random, false), v6].map(|ip| ip.to_string());
            let profile = *self
                .random
                .pick(&["p0", "projectcalico-default-allow", "missing"]);
            let mut spec = vec![
                ("node", (*node).into()),
                ("interfaceName", interface.into()),
                ("expectedIPs", Value::texts(addresses)),
                ("ports", self.ports_of_endpoint()),
            ];
            if self.random.one_in(2) {
                spec.push(("profiles", Value::texts([profile])));
            }
            let name = format!("h{index}");
            self.spec(calico("HostEndpoint"), None, &name, &labels, spec);
        }
    }

    fn policy(&mut self, index: usize) {
        // A few names, so that staged and enforced policies share some.
        let name = format!("policy{}", index / 2 + self.random.below(2));
        let namespace = *self.random.pick(&NAMESPACES);
        let none = Labels::new();
        match self.random.below(12) {
            0 | 1 => {
                let spec = self.kubernetes_policy();
                let kind = ("networking.k8s.io/v1", "NetworkPolicy");
                self.spec(kind, Some(namespace), &name, &none, spec);
            }
            2 => {
                let mut spec = self.kubernetes_policy();
                spec.push(("stagedAction", self.staged_action()));
                let kind = calico("StagedKubernetesNetworkPolicy");
                self.spec(kind, Some(namespace), &name, &none, spec);
            }
            3 => {
                let spec = self.cluster_policy();
                let kind = ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy");
                self.spec(kind, None, &name, &none, spec);
            }
            4..7 => {
                let spec = self.calico_policy(Some(namespace));
                self.spec(calico("NetworkPolicy"), Some(namespace), &name, &none, spec);
            }
            7 => {
                let mut spec = self.calico_policy(Some(namespace));
                spec.push(("stagedAction", self.staged_action()));
                let kind = calico("StagedNetworkPolicy");
                self.spec(kind, Some(namespace), &name, &none, spec);
            }
            8 => {
                let mut spec = self.global_policy();
                spec.push(("stagedAction", self.staged_action()));
                let kind = calico("StagedGlobalNetworkPolicy");
                self.spec(kind, None, &name, &none, spec);
            }
            _ => {
                let spec = self.global_policy();
                self.spec(calico("GlobalNetworkPolicy"), None, &name, &none, spec);
            }
        }
    }

    fn staged_action(&mut self) -> Value {
        (*self
            .random
            .pick(&["Set", "Set", "Delete", "Learn", "Ignore"]))
        .into()
    }

    fn global_policy(&mut self) -> Entries {
        let mut spec = self.calico_policy(None);
        if self.random.one_in(4) {
            let selector = self.namespace_selector();
            spec.push(("namespaceSelector", selector.into()));
        }
        match self.random.below(6) {
            0 => spec.push(("applyOnForward", true.into())),
            1 => spec.push(("doNotTrack", true.into())),
            2 => {
                spec.retain(|(name, _)| *name != "egress" && *name != "types");
                spec.push(("preDNAT", true.into()));
                spec.push(("applyOnForward", true.into()));
            }
            _ => {}
        }
        spec
    }

    fn calico_policy(&mut self, namespace: Option<&str>) -> Entries {
        let mut spec = self.rules(namespace, false);
        if !self.random.one_in(3) {
            spec.push(("tier", (*self.random.pick(&TIERS)).into()));
        }
        if !self.random.one_in(4) {
            spec.push(("order", Value::Integer(self.below(4))));
        }
        if !self.random.one_in(3) {
            spec.push(("selector", self.selector().into()));
        }
        if self.random.one_in(8) {
            spec.push(("serviceAccountSelector", self.selector().into()));
        }
        if self.random.one_in(3) {
            spec.push(("types", self.types()));
        }
        spec
    }

    fn types(&mut self) -> Value {
        const BOTH: [&str; 2] = ["Ingress", "Egress"];
        let which = self.random.below(3);
        Value::texts(
            if which < 2 {
                &BOTH[which..=which]
            } else {
                &BOTH
            }
            .iter()
            .copied(),
        )
    }

    fn rules(&mut self, namespace: Option<&str>, profile: bool) -> Entries {
        let mut entries = Vec::new();
        for (name, ingress) in [("ingress", true), ("egress", false)] {
            let rules: Vec<_> = (0..self.random.below(5))
                .map(|_| self.rule(namespace, ingress, profile))
                .collect();
            entries.push((name, rules.into()));
        }
        entries
    }

    fn rule(&mut self, namespace: Option<&str>, ingress: bool, profile: bool) -> Value {
        let actions: &[&str] = if profile {
            &["Allow", "Deny", "Log"]
        } else {
            &["Allow", "allow", "Allow", "Deny", "Pass", "Log"]
        };
        let mut rule = vec![("action", (*self.random.pick(actions)).into())];
        let protocol = *self.random.pick(&PROTOCOLS);
        let has_protocol = self.random.one_in(2);
        if has_protocol {
            rule.push(("protocol", protocol.into()));
        } else if self.random.one_in(12) {
            rule.push(("protocol", 4.into()));
        }
        if self.random.one_in(10) {
            let other = *self.random.pick(&PROTOCOLS[..3]);
            rule.push(("notProtocol", other.into()));
        }
        let icmp = protocol.starts_with("ICMP");
        if !(icmp && has_protocol) && self.random.one_in(8) {
            let version = *self.random.pick(&[4, 6]);
            rule.push(("ipVersion", version.into()));
        }
        let version = rule.iter().find_map(|(name, value)| match value {
            Value::Integer(version) if *name == "ipVersion" => Some(*version == 6),
            _ => None,
        });
        if icmp && has_protocol {
            for name in ["icmp", "notICMP"] {
                if self.random.one_in(3) {
                    let mut fields = vec![(
                        "type",
                        Value::Integer(*self.random.pick(&[0, 3, 8, 128, 129])),
                    )];
                    if self.random.one_in(2) {
                        fields.push(("code", Value::Integer(self.below(2))));
                    }
                    rule.push((name, Value::map(fields)));
                }
            }
        }
        let ported = has_protocol && !icmp;
        for (name, is_source) in [("source", true), ("destination", false)] {
            if self.random.one_in(2) {
                let service = ingress == is_source && !profile && self.random.one_in(12);
                let side = if service {
                    let mut fields = vec![("name", Value::from("svc"))];
                    if namespace.is_none() || self.random.one_in(2) {
                        let namespace = *self.random.pick(&NAMESPACES);
                        fields.push(("namespace", namespace.into()));
                    }
                    Value::map([("services", Value::map(fields))])
                } else {
                    let anyway =
                        rule.iter().all(|(name, _)| *name != "protocol") && self.random.one_in(4);
                    self.side(ported || anyway, version)
                };
                rule.push((name, side));
            }
        }
        Value::map(rule)
    }

    fn side(&mut self, ported: bool, version: Option<bool>) -> Value {
        let mut side = Vec::new();
        for (name, often) in [("nets", 3), ("notNets", 8)] {
            if self.random.one_in(often) {
                let v6 = self.random.one_in(3);
                let nets: Vec<_> = (0..1 + self.random.below(3))
                    .map(|_| {
                        let v6 = version.unwrap_or(v6 ^ self.random.one_in(6));
                        any_net(&mut self.random, v6)
                    })
                    .collect();
                side.push((name, Value::texts(nets)));
            }
        }
        if self.random.one_in(3) {
            side.push(("selector", self.selector().into()));
        }
        if self.random.one_in(8) {
            side.push(("notSelector", self.selector().into()));
        }
        if self.random.one_in(6) {
            side.push(("namespaceSelector", self.namespace_selector().into()));
        }
        if self.random.one_in(10) {
            let mut accounts = Vec::new();
            if self.random.one_in(2) {
                accounts.push(("names", Value::texts([*self.random.pick(&ACCOUNTS)])));
            }
            if self.random.one_in(2) {
                accounts.push(("selector", self.selector().into()));
            }
            side.push(("serviceAccounts", Value::map(accounts)));
        }
        if ported {
            for (name, often) in [("ports", 2), ("notPorts", 5)] {
                if self.random.one_in(often) {
                    let ports: Vec<_> =
                        (0..1 + self.random.below(3)).map(|_| self.port()).collect();
                    side.push((name, ports.into()));
                }
            }
        }
        Value::map(side)
    }

    fn port(&mut self) -> Value {
        let (a, b) = (port(&mut self.random), port(&mut self.random));
        match self.random.below(4) {
            0 => (*self.random.pick(&PORT_NAMES)).into(),
            1 => format!("{}:{}", a.min(b), a.max(b)).into(),
            2 => format!("{a}").into(),
            _ => i64::from(a).into(),
        }
    }

    fn selector(&mut self) -> String {
        self.expression(2)
    }

    fn namespace_selector(&mut self) -> String {
        match self.random.below(4) {
            0 => "all()".into(),
            1 => "global()".into(),
            2 => {
                let name = *self.random.pick(&NAMESPACES);
                format!("projectcalico.org/name == '{name}'")
            }
            _ => self.expression(1),
        }
    }

    fn expression(&mut self, depth: usize) -> String {
        let label = *self.random.pick(&LABELS);
        let value = *self.random.pick(&VALUES);
        let other = *self.random.pick(&VALUES);
        let form = self.random.below(if depth == 0 { 9 } else { 12 });
        match form {
            0 => "all()".into(),
            1 => format!("has({label})"),
            2 | 3 => format!("{label} == '{value}'"),
            4 => format!("{label} != \"{value}\""),
            5 => format!("{label} in {{'{value}', '{other}'}}"),
            6 => format!("{label} not in {{'{value}'}}"),
            7 => format!("{label} contains '{value}'"),
            8 => {
                let end = *self.random.pick(&["starts with", "ends with"]);
                format!("{label} {end} '{value}'")
            }
            9 => format!("!({})", self.expression(depth - 1)),
            10 => format!(
                "({}) && ({})",
                self.expression(depth - 1),
                self.expression(depth - 1)
            ),
            _ => format!(
                "{} || {}",
                self.expression(depth - 1),
                self.expression(depth - 1)
            ),
        }
    }

    fn label_selector(&mut self) -> Value {
        let mut fields = Vec::new();
        if self.random.one_in(2) {
            let label = *self.random.pick(&LABELS);
            let value = *self.random.pick(&VALUES);
            fields.push(("matchLabels", Value::map([(label, value.into())])));
        }
        if self.random.one_in(3) {
            let operator = *self.random.pick(&["In", "NotIn", "Exists", "DoesNotExist"]);
            let mut requirement = vec![
                ("key", (*self.random.pick(&LABELS)).into()),
                ("operator", operator.into()),
            ];
            if operator.ends_with("In") {
                let values = [*self.random.pick(&VALUES), *self.random.pick(&VALUES)];
                requirement.push(("values", Value::texts(values)));
            }
            fields.push(("matchExpressions", vec![Value::map(requirement)].into()));
        }
        Value::map(fields)
    }

    fn kubernetes_policy(&mut self) -> Entries {
        let mut spec = vec![("podSelector", self.label_selector())];
        for (name, peers) in [("ingress", "from"), ("egress", "to")] {
            if self.random.one_in(2) {
                let rules: Vec<_> = (0..self.random.below(3))
                    .map(|_| self.kubernetes_rule(peers))
                    .collect();
                spec.push((name, rules.into()));
            }
        }
        if self.random.one_in(2) {
            spec.push(("policyTypes", self.types()));
        }
        spec
    }

    fn kubernetes_rule(&mut self, peers: &'static str) -> Value {
        let mut rule = Vec::new();
        let list: Vec<_> = (0..self.random.below(3))
            .map(|_| match self.random.below(4) {
                0 => Value::map([("podSelector", self.label_selector())]),
                1 => Value::map([("namespaceSelector", self.label_selector())]),
                2 => Value::map([
                    ("podSelector", self.label_selector()),
                    ("namespaceSelector", self.label_selector()),
                ]),
                _ => {
                    let block = Value::map([
                        ("cidr", "10.0.0.0/8".into()),
                        ("except", Value::texts(["10.1.0.0/16", "10.0.2.0/24"])),
                    ]);
                    Value::map([("ipBlock", block)])
                }
            })
            .collect();
        if !list.is_empty() {
            rule.push((peers, list.into()));
        }
        let ports: Vec<_> = (0..self.random.below(3))
            .map(|_| {
                let mut fields = Vec::new();
                if self.random.one_in(2) {
                    let protocol = *self.random.pick(&["TCP", "UDP", "SCTP"]);
                    fields.push(("protocol", protocol.into()));
                }
                match self.random.below(4) {
                    0 => fields.push(("port", (*self.random.pick(&PORT_NAMES)).into())),
                    1 => {
                        fields.push(("port", 50.into()));
                        fields.push(("endPort", 100.into()));
                    }
                    2 => fields.push(("port", i64::from(port(&mut self.random)).max(1).into())),
                    _ => {}
                }
                Value::map(fields)
            })
            .collect();
        if !ports.is_empty() {
            rule.push(("ports", ports.into()));
        }
        Value::map(rule)
    }

    fn cluster_policy(&mut self) -> Entries {
        let pods = |make: &mut Self| {
            Value::map([
                ("podSelector", make.label_selector()),
                ("namespaceSelector", make.label_selector()),
            ])
        };
        let either = |make: &mut Self| {
            if make.random.one_in(2) {
                Value::map([("namespaces", make.label_selector())])
            } else {
                Value::map([("pods", pods(make))])
            }
        };
        let mut spec = vec![
            ("tier", (*self.random.pick(&["Admin", "Baseline"])).into()),
            ("priority", Value::Integer(self.below(4))),
            ("subject", either(self)),
        ];
        for (name, peers) in [("ingress", "from"), ("egress", "to")] {
            let rules: Vec<_> = (0..self.random.below(3))
                .map(|_| {
                    let action = *self.random.pick(&["Accept", "Deny", "Pass"]);
                    let mut list = vec![either(self)];
                    if peers == "to" && self.random.one_in(3) {
                        let nets = Value::texts([any_net(&mut self.random, false)]);
                        list.push(Value::map([("networks", nets)]));
                    }
                    if peers == "to" && self.random.one_in(8) {
                        list.push(Value::map([("nodes", self.label_selector())]));
                    }
                    let mut rule = vec![("action", action.into()), (peers, list.into())];
                    if self.random.one_in(2) {
                        let port = i64::from(port(&mut self.random)).max(1);
                        let port = Value::map([("number", port.into())]);
                        let protocol = *self.random.pick(&["tcp", "udp", "sctp"]);
                        let protocol =
                            Value::map([(protocol, Value::map([("destinationPort", port)]))]);
                        rule.push(("protocols", vec![protocol].into()));
                    }
                    Value::map(rule)
                })
                .collect();
            spec.push((name, rules.into()));
        }
        spec
    }
}

fn calico(kind: &'static str) -> (&'static str, &'static str) {
    ("projectcalico.org/v3", kind)
}
