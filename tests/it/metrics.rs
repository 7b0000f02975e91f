//! The names of all counters.
//!
//! Its one rule: names are taken apart as the shipped `stats_tags` take them apart.
//! It does not know Envoy, nor when something is counted.

use std::collections::BTreeSet;

use envoy_idempotency::config::Config;
use envoy_idempotency::count::Count;

/// Family and labels of a name, as `.key.value` pairs behind it.
fn taken_apart(name: &str) -> (String, Vec<(String, String)>) {
    let Some(rest) = name.strip_prefix("idempotency.") else { return (name.to_owned(), Vec::new()) };
    let mut words = rest.split('.').map(str::to_owned);
    let family = words.next().unwrap();
    let mut labels = Vec::new();
    while let (Some(key), Some(value)) = (words.next(), words.next()) {
        labels.push((key, value));
    }
    (family, labels)
}

#[test]
fn every_name_is_a_family_with_its_rule_and_at_most_one_label_more() {
    for (count, observed) in Count::of_a_rule().into_iter().flat_map(|count| [(count, false), (count, true)]) {
        for name in count.metrics("payments", observed) {
            let (family, labels) = taken_apart(&name);
            assert!(family.ends_with("_total") && family.starts_with("observed_") == observed, "{name}");
            assert_eq!(labels[0], ("rule".to_owned(), "payments".to_owned()), "{name}");
            let others: Vec<&str> = labels[1..].iter().map(|(key, _)| key.as_str()).collect();
            let fits = match family.trim_start_matches("observed_") {
                "requests_total" => others == ["outcome"],
                "refused_total" | "bypassed_total" => others == ["reason"],
                _ => others.is_empty(),
            };
            assert!(fits, "{name}");
            let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
            assert!(letters, "{name}");
        }
    }
}

#[test]
fn a_request_that_is_refused_replayed_executed_or_let_through_counts_among_all_requests() {
    let requests = |count: &Count| count.metrics("r", false).iter().any(|name| name.contains("requests_total"));
    let outcomes: BTreeSet<String> = Count::of_a_rule()
        .iter()
        .filter(|count| requests(count))
        .map(|count| count.metrics("r", false)[0].rsplit('.').next().unwrap().to_owned())
        .collect();
    assert_eq!(outcomes, ["bypassed", "executed", "refused", "replayed", "unsent"].map(str::to_owned).into());
}

#[test]
fn how_many_counters_there_are_hangs_on_the_rules_alone() {
    let names = |counts: Vec<Count>| -> BTreeSet<String> {
        counts.into_iter().flat_map(|count| count.metrics("r", false)).collect()
    };
    let (of_a_rule, of_the_store) = (names(Count::of_a_rule()).len(), names(Count::of_the_store()).len());
    let said = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md")).unwrap();
    let sentence = format!("{of_a_rule} counters a rule and {of_the_store} of the store");
    assert!(said.contains(&sentence), "docs/operations.md does not say {sentence:?}");
}

#[test]
fn a_rule_is_shown_by_its_name_in_letters_that_every_metric_can_have() {
    let named = |names: [&str; 3]| {
        let rules =
            names.map(|name| if name.is_empty() { "{}".to_owned() } else { format!(r#"{{"name": "{name}"}}"#) });
        let document = format!(r#"{{"rules": [{}]}}"#, rules.join(","));
        let config = Config::parse(document.as_bytes(), &|_| None).unwrap();
        config.rules.iter().map(|rule| rule.policy.rule.label()).collect::<Vec<_>>()
    };
    assert_eq!(named(["payments", "a.b/c d\u{e9}", ""]), ["payments", "a_b_c_d_", "rule2"]);
    let long = "a-b_".repeat(20);
    assert_eq!(named([&long, "é", ""]), [&long[..40], "_", "rule2"]);
    let config = Config::parse(b"{}", &|_| None).unwrap();
    assert_eq!(config.rules[0].policy.rule.label(), "default");
}
