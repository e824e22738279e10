use std::rc::Rc;

use proptest::prelude::*;

use super::*;

/// A selector as somebody might write it, and what it means, built side by side without the parser.
#[derive(Clone)]
struct Written {
    text: String,
    meaning: Rc<dyn Fn(&Labels) -> bool>,
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn written(text: String, meaning: impl Fn(&Labels) -> bool + 'static) -> Written {
    Written {
        text,
        meaning: Rc::new(meaning),
    }
}

const LABELS: [&str; 6] = ["a", "b", "in", "has", "x.y/z-_", "all"];
const VALUES: [&str; 7] = ["", "v", "vv", "w v", "it's", "say \"x\"", "in {"];

fn space() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just(" "), Just("\t"), Just("  ")]
}

fn maybe_space() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just(""), space()]
}

fn quoted(value: &str, single: bool) -> String {
    if value.contains('"') || single && !value.contains('\'') {
        format!("'{value}'")
    } else {
        format!("\"{value}\"")
    }
}

fn leaf() -> impl Strategy<Value = Written> {
    let label = proptest::sample::select(&LABELS[..]);
    let values = proptest::collection::vec(proptest::sample::select(&VALUES[..]), 0..4);
    (
        0u8..12,
        label,
        values,
        any::<bool>(),
        space(),
        maybe_space(),
    )
        .prop_map(|(form, label, values, single, s, m)| {
            let value = values.first().copied().unwrap_or("v");
            let string = quoted(value, single);
            let set: Vec<_> = values.iter().map(|value| quoted(value, single)).collect();
            let trailing = if single && !set.is_empty() { "," } else { "" };
            let set = format!("{{{m}{}{trailing}{m}}}", set.join(","));
            match form {
                0 => written(format!("all({m})"), |_| true),
                1 => written(format!("global({m})"), |_| true),
                2 => written(format!("has({m}{label}{m})"), move |l| {
                    l.contains_key(label)
                }),
                3 | 4 => written(format!("{label}{m}=={m}{string}"), move |l| {
                    l.get(label).is_some_and(|found| found == value)
                }),
                5 => written(format!("{label}{m}!={m}{string}"), move |l| {
                    l.get(label).is_none_or(|found| found != value)
                }),
                6 => written(format!("{label}{s}contains{m}{string}"), move |l| {
                    l.get(label).is_some_and(|found| found.contains(value))
                }),
                7 => written(format!("{label}{s}starts{m}with{m}{string}"), move |l| {
                    l.get(label).is_some_and(|found| found.starts_with(value))
                }),
                8 => written(format!("{label}{s}ends{m}with{m}{string}"), move |l| {
                    l.get(label).is_some_and(|found| found.ends_with(value))
                }),
                9 | 10 => written(format!("{label}{s}in{m}{set}"), move |l| {
                    l.get(label)
                        .is_some_and(|found| values.iter().any(|value| value == found))
                }),
                _ => written(format!("{label}{s}not{m}in{m}{set}"), move |l| {
                    l.get(label)
                        .is_none_or(|found| !values.iter().any(|value| value == found))
                }),
            }
        })
}

fn selector() -> impl Strategy<Value = Written> {
    leaf().prop_recursive(4, 24, 4, |inner| {
        let list = proptest::collection::vec(inner.clone(), 2..4);
        prop_oneof![
            (inner, 1usize..4, maybe_space()).prop_map(|(inner, marks, m)| {
                let text = format!("{}({m}{}{m})", "!".repeat(marks), inner.text);
                written(text, move |l| (inner.meaning)(l) != (marks % 2 == 1))
            }),
            (list.clone(), maybe_space()).prop_map(|(list, m)| {
                let parts: Vec<_> = list.iter().map(|w| format!("({})", w.text)).collect();
                written(parts.join(&format!("{m}&&{m}")), move |l| {
                    list.iter().all(|w| (w.meaning)(l))
                })
            }),
            (list, maybe_space()).prop_map(|(list, m)| {
                // A conjunction needs no parentheses between `||`.
                let parts: Vec<_> = list.iter().map(|w| w.text.clone()).collect();
                written(parts.join(&format!("{m}||{m}")), move |l| {
                    list.iter().any(|w| (w.meaning)(l))
                })
            }),
        ]
    })
}

fn labels() -> impl Strategy<Value = Labels> {
    proptest::collection::btree_map(
        proptest::sample::select(&LABELS[..]).prop_map(str::to_owned),
        proptest::sample::select(&VALUES[..]).prop_map(str::to_owned),
        0..LABELS.len(),
    )
}

proptest! {
    #[test]
    fn evaluation_equals_the_meaning_as_written(
        written in selector(),
        sets in proptest::collection::vec(labels(), 1..8),
    ) {
        let selector = Selector::of_any_length(&written.text).expect("well formed");
        for labels in &sets {
            prop_assert_eq!(selector.matches(labels), (written.meaning)(labels), "{:?} on {:?}", written, labels);
        }
    }

    #[test]
    fn the_canonical_text_is_a_fixpoint_and_means_the_same(
        written in selector(),
        sets in proptest::collection::vec(labels(), 1..8),
    ) {
        let selector = Selector::of_any_length(&written.text).expect("well formed");
        for selector in [selector.clone(), selector.negated(), selector.negated().negated()] {
            let again = Selector::of_any_length(selector.as_str()).expect("canonical text is well formed");
            prop_assert_eq!(again.as_str(), selector.as_str());
            prop_assert_eq!(again.id(), selector.id());
            for labels in &sets {
                prop_assert_eq!(again.matches(labels), selector.matches(labels));
            }
        }
    }

    /// Whatever matches satisfies every restriction: an index that looks only there misses nothing.
    #[test]
    fn restrictions_are_implied(written in selector(), sets in proptest::collection::vec(labels(), 1..16)) {
        let selector = Selector::of_any_length(&written.text).expect("well formed");
        for selector in [selector.clone(), selector.negated()] {
            let restrictions = selector.restrictions();
            for labels in sets.iter().filter(|labels| selector.matches(*labels)) {
                for (label, restriction) in &restrictions {
                    prop_assert!(restriction.admits(labels.label(label)), "{selector}: {label} {restriction:?} on {labels:?}");
                }
            }
        }
    }

    /// A prefixed selector on prefixed labels is the selector on the labels.
    #[test]
    fn a_prefix_moves_with_the_labels(written in selector(), labels in labels()) {
        let selector = Selector::of_any_length(&written.text).expect("well formed");
        let prefixed: Labels = labels.iter().map(|(k, v)| (format!("pcsa.{k}"), v.clone())).collect();
        prop_assert_eq!(selector.of_service_accounts().matches(&prefixed), selector.matches(&labels));
        // In a namespace, `all()` holds; `global()` does not.
        if !selector.mentions_global() {
            let mut inside: Labels = labels.iter().map(|(k, v)| (format!("pcns.{k}"), v.clone())).collect();
            inside.insert(NAMESPACE_LABEL.into(), "default".into());
            prop_assert_eq!(selector.of_namespaces().matches(&inside), selector.matches(&labels));
        }
    }

    #[test]
    fn composition_is_logic(left in selector(), right in selector(), labels in labels()) {
        let (a, b) = (Selector::of_any_length(&left.text).expect("valid"), Selector::of_any_length(&right.text).expect("valid"));
        let (x, y) = (a.matches(&labels), b.matches(&labels));
        prop_assert_eq!(Selector::and([a.clone(), b.negated()]).matches(&labels), x && !y);
        prop_assert_eq!(Selector::and([a.clone()]), a);
    }

    /// Any text ends in a selector or an error with a position inside it.
    #[test]
    fn nothing_makes_the_parser_fall(text in "[ \t!&|()=\"'{},a-cà]{0,40}|(has\\(|all\\(|a in \\{|not in|\\)|\\}|&&|\"v\"| ){0,12}") {
        if let Err(error) = Selector::new(&text) {
            prop_assert!(error.position <= text.len() && text.is_char_boundary(error.position));
        }
    }
}

#[test]
fn the_canonical_text() {
    for (text, canonical) in [
        ("", "all()"),
        (" \t", "all()"),
        ("a=='b'", "a == \"b\""),
        ("a != 'b\"c'", "a != 'b\"c'"),
        ("a in {'z','b', \"b\",}", "a in {\"b\", \"z\"}"),
        ("a notin{}", "a not in {}"),
        ("a startswith 'x'", "a starts with \"x\""),
        ("a ends\twith 'x'", "a ends with \"x\""),
        ("!!! has( a )", "!has(a)"),
        ("!!a == 'b'", "a == \"b\""),
        ("!a == 'b'", "!a == \"b\""),
        (
            "has(a) || has(b) && has(c)",
            "(has(a) || (has(b) && has(c)))",
        ),
        (
            "(has(a) || has(b)) && has(c)",
            "((has(a) || has(b)) && has(c))",
        ),
        ("((has(a)))", "has(a)"),
        ("in in {'in'}", "in in {\"in\"}"),
        ("has == 'x'", "has == \"x\""),
        ("not not in {'x'}", "not not in {\"x\"}"),
        ("all() && global()", "(all() && global())"),
    ] {
        assert_eq!(
            Selector::new(text).map(|selector| selector.to_string()),
            Ok(canonical.to_owned()),
            "{text}"
        );
    }
    assert_eq!(
        Selector::has("a").negated().negated().as_str(),
        "!(!has(a))"
    );
}

#[test]
fn bad_selectors_are_refused_where_they_are_bad() {
    for (text, position) in [
        ("a", 1),
        ("a = 'b'", 2),
        ("a === 'b'", 4),
        ("a == b", 5),
        ("a == 'b", 5),
        ("a == \"b'", 5),
        ("a == 'b' 'c'", 9),
        ("a == 'b' & has(c)", 9),
        ("a == 'b' | has(c)", 9),
        ("a == 'b' &&", 11),
        ("&& a == 'b'", 0),
        ("a == 'b' || || has(c)", 12),
        ("(a == 'b'", 9),
        ("a == 'b')", 8),
        ("()", 1),
        ("!", 1),
        ("has()", 4),
        ("has (a)", 4),
        ("has(a", 5),
        ("has(a b)", 6),
        ("all", 3),
        ("all ()", 4),
        ("all(x)", 4),
        ("global(", 7),
        ("ALL()", 3),
        ("Has(a)", 3),
        ("a IN {'b'}", 2),
        ("a in 'b'", 5),
        ("a in {b}", 6),
        ("a in {'b' 'c'}", 10),
        ("a in {,}", 6),
        ("a in {'b',,}", 10),
        ("a in {'b'", 9),
        ("a inx {'b'}", 2),
        ("a in.b {'b'}", 2),
        ("a not {'b'}", 2),
        ("a not 'b'", 2),
        ("a contains b", 11),
        ("a containsb 'x'", 2),
        ("a starts 'b'", 2),
        ("a\n== 'b'", 1),
        ("a == 'b'\u{a0}", 8),
        ("ä == 'b'", 0),
        ("a$b == 'c'", 1),
        ("'a' == 'b'", 0),
        ("a == 'b' has(c)", 9),
        ("a && b == 'c'", 2),
    ] {
        match Selector::new(text) {
            Err(error) => assert_eq!(error.position, position, "{text}: {error}"),
            Ok(selector) => panic!("{text} was read as {selector}"),
        }
    }
}

#[test]
fn limits_have_an_end() {
    let label = "l".repeat(MAX_LABEL);
    assert!(Selector::new(&format!("has({label})")).is_ok());
    let error = Selector::new(&format!("has({label}l)")).expect_err("too long a label");
    assert_eq!(error.position, 4);
    let text = format!("a == '{}'", "x".repeat(MAX_SELECTOR - 7));
    assert_eq!(text.len(), MAX_SELECTOR);
    assert!(Selector::new(&text).is_ok());
    let error = Selector::new(&format!("{text} ")).expect_err("too long");
    assert_eq!(error.position, MAX_SELECTOR);
    assert!(Selector::of_any_length(&format!("{text} ")).is_ok());
    let nested = |depth| format!("{}has(a){}", "(".repeat(depth), ")".repeat(depth));
    assert!(Selector::of_any_length(&nested(MAX_NESTING)).is_ok());
    let error = Selector::of_any_length(&nested(100_000)).expect_err("too deep");
    assert_eq!(error.position, MAX_NESTING);
}

#[test]
fn ids_are_base64url_of_sha224() {
    // FIPS 180-4's hash of the empty text is d14a028c 2a3a2bc9 476102bb 288234c4 15a2b01f 828ea62a c5b3e42f.
    assert_eq!(
        base64url(&Sha224::digest(b"")),
        "0UoCjCo6K8lHYQK7KII0xBWisB-CjqYqxbPkLw"
    );
    // RFC 4648 section 10.
    for (text, encoded) in [
        ("", ""),
        ("f", "Zg"),
        ("fo", "Zm8"),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg"),
        ("fooba", "Zm9vYmE"),
    ] {
        assert_eq!(base64url(text.as_bytes()), encoded);
    }
    assert_eq!(base64url(&[0xfb, 0xff]), "-_8");
    let id = Selector::all().id();
    assert!(id.starts_with("s:") && id.len() == 40, "{id}");
    assert_eq!(id, format!("s:{}", base64url(&Sha224::digest(b"s:all()"))));
}
