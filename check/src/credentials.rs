//! What in front of the filter takes away, or may take away, what tells callers apart.
//!
//! Its one rule: an error is what the file says outright; what a program or a service decides is a warning.
//! It does not know what one filter does.

use envoy_idempotency::config::Config;
use serde_json::Value;

use crate::bootstrap::{Bootstrap, collect, list};
use crate::certificates;
use crate::deeds::{Act, Fate, fate, may_change, of_filters};
use crate::describe::all;
use crate::identity;
use crate::issuers;
use crate::istio;
use crate::lint::{self, kind, name};
use crate::locate::{Carrier, Chain, Found};
use crate::metadata;
use crate::mutations;
use crate::requirements::{self, Provider};
use crate::running;
use crate::scope::{Enforced, Manner, Reading, Spot, enforced};
use crate::sources;
use crate::tokens;
use crate::told::{rules_named, say};
use crate::verification;
use crate::wanted::Wanted;
use crate::ways::{Way, ways};

/// What is said of a place where the filter is configured.
#[derive(Default)]
pub struct Findings {
    pub errors: Vec<String>,
    pub warnings: Vec<String>,
}

/// Every finding about who is asking. `document` is what the configuration was read from.
pub fn findings(found: &Found<'_>, config: &Config, document: &Value, trees: &[Value]) -> Findings {
    let rules = enforced(config, document);
    match found.carrier {
        Carrier::Chain(chain) => of_chain(chain, &rules, &Bootstrap::of(trees)),
        Carrier::EnvoyFilter(_) | Carrier::WasmPlugin(_) => of_istio(found.carrier, &rules, trees),
        Carrier::ExtensionPolicy(_) | Carrier::Unknown => Findings::default(),
    }
}

fn of_chain(chain: Chain<'_>, rules: &[Enforced<'_>], bootstrap: &Bootstrap<'_>) -> Findings {
    let mut losses = Losses::default();
    for rule in rules {
        for way in chain.ways(&rule.wanted) {
            losses.look_for(rule, &before(chain, &way, &rule.wanted, bootstrap), "");
        }
        for (place, acts) in on_the_way_here(chain, rule, bootstrap) {
            losses.look_for(rule, &acts, &place);
        }
    }
    let mut warnings = verification::unverified(chain, rules);
    for filter in chain.before() {
        let meets = |rule: &&Enforced<'_>| {
            let mut given = chain.ways(&rule.wanted).filter_map(|way| Some(may_change(filter, &way.given(filter)?)));
            given.any(|may| may)
        };
        warnings.extend(doubt(name(filter), kind(filter), rules.iter().filter(meets)));
    }
    warnings.extend(identity::of_chain(chain, rules));
    let asked = |rule: &Enforced<'_>| {
        chain.ways(&rule.wanted).map(|way| requirements::on_way(chain, &way, &rule.wanted)).collect::<Vec<_>>()
    };
    warnings.extend(issuers::warnings(rules, asked));
    warnings.extend(metadata::of_providers(rules, asked));
    warnings.extend(metadata::of_names(chain, rules));
    warnings.extend(sources::of_chain(chain, rules, bootstrap));
    warnings.extend(sources::by_default(rules, asked));
    warnings.extend(certificates::warnings(chain, rules));
    warnings.extend(running::warnings(chain, rules));
    let certificates = certificates::errors(chain, rules);
    let order = lint::order_errors(chain);
    Findings {
        errors: [losses.told(), certificates, running::errors(chain, rules, bootstrap), order].concat(),
        warnings,
    }
}

/// What is done to a request on this way before the filter sees it.
fn before(chain: Chain<'_>, way: &Way<'_>, wanted: &Wanted<'_>, bootstrap: &Bootstrap<'_>) -> Vec<Act> {
    [mutations::of_manager(chain.listener, chain.manager), of_filters(chain.before(), way, wanted, bootstrap)].concat()
}

/// What listeners of the file that lead to this one do to a request, and what is done to it here after that; each with
/// the place of that listener.
fn on_the_way_here(chain: Chain<'_>, rule: &Enforced<'_>, bootstrap: &Bootstrap<'_>) -> Vec<(String, Vec<Act>)> {
    let Some(here) = chain.listener else { return Vec::new() };
    let mut found = Vec::new();
    for listener in bootstrap.listeners.iter().filter(|listener| !std::ptr::eq(**listener, here)) {
        let mut managers = Vec::new();
        collect(listener, &|node| node["http_filters"].is_array(), &mut managers);
        for manager in managers {
            for way in ways(manager, &Wanted::anything()).iter().filter(|way| way.leads_on(&rule.wanted)) {
                let leads = |name: &&str| {
                    bootstrap
                        .cluster(name)
                        .is_some_and(|it| bootstrap.leads_to(it).iter().any(|to| std::ptr::eq(*to, here)))
                };
                let Some(cluster) = way.cluster.filter(leads) else { continue };
                let place = format!("listener {}, which leads here by cluster {cluster}: ", name(listener));
                let anything = Wanted::anything();
                let wanted = if way.is_rewritten() { &anything } else { &rule.wanted };
                let mut acts = mutations::of_manager(Some(listener), manager);
                acts.extend(of_filters(list(&manager["http_filters"]), way, wanted, bootstrap));
                acts.extend(mutations::of_router(way, &manager["route_config"]));
                acts.iter_mut().for_each(|act| act.by.insert_str(0, &place));
                acts.extend(before(chain, &Way::unknown(), &rule.wanted, bootstrap));
                found.push((place, acts));
            }
        }
    }
    found
}

/// What is lost of that which rules read: each loss in two halves, between which the rules are named.
#[derive(Default)]
struct Losses<'a> {
    found: Vec<([String; 2], Vec<&'a str>)>,
}

impl<'a> Losses<'a> {
    /// Looks for what the rule reads and these deeds take away, as far as that is done at this place.
    fn look_for(&mut self, rule: &Enforced<'a>, acts: &[Act], place: &str) {
        for reading in &rule.readings {
            let Some(Loss { act, loss, result, how, mend }) = loss(rule, reading, acts) else { continue };
            if !act.by.starts_with(place) {
                continue;
            }
            let read = match reading.words() {
                words if words == reading.spot.words() => "it".to_owned(),
                words => words,
            };
            let halves = [
                format!("{} {loss}{how}, and scope.caller of ", act.by),
                format!(" reads {read}, so {result}: {mend}"),
            ];
            say(&mut self.found, halves, rule.name);
        }
    }

    fn told(self) -> Vec<String> {
        let told = self.found.into_iter().map(|([start, end], rules)| format!("{start}{}{end}", rules_named(&rules)));
        told.collect()
    }
}

/// What a rule loses, in words.
struct Loss<'a> {
    act: &'a Act,
    loss: String,
    result: &'static str,
    how: String,
    mend: String,
}

/// What these deeds take away of what this rule reads there.
fn loss<'a>(rule: &Enforced<'_>, reading: &Reading, acts: &'a [Act]) -> Option<Loss<'a>> {
    let words = reading.spot.words();
    let (act, loss, result) = match fate(&reading.spot, acts) {
        Fate::Gone(gone) => {
            let lost: Vec<_> = gone.into_iter().filter(|act| !act.is_made_good(reading, &rule.readings)).collect();
            let grants: Vec<_> = lost.iter().filter_map(|act| act.grant.as_ref()).collect();
            let act = *lost.first()?;
            let (how, mend) = match grants.is_empty() {
                true => (act.how.clone(), act.mend.clone()),
                false => (tokens::how(&grants), tokens::mend(&grants)),
            };
            let result = "such callers are not told apart";
            return Some(Loss { act, loss: format!("removes {words}"), result, how, mend });
        }
        Fate::OneForAll(act) => (act, format!("writes one {words} for all requests"), "all callers are one"),
        Fate::OneForRest(act) => {
            let loss = format!("writes one {words} for all requests that have none");
            (act, loss, "all clients that send none are one caller")
        }
        Fate::Anew(act) if reading.manner == Manner::Signer => {
            (act, format!("signs every request itself in {words}"), "all callers are one")
        }
        Fate::Anew(act) => {
            (act, format!("signs every request anew in {words}"), "no caller stays the same from try to try")
        }
        Fate::Demanded | Fate::Open => return None,
    };
    Some(Loss { act, loss, result, how: act.how.clone(), mend: act.mend.clone() })
}

/// The warning that a program in front may do anything to what these rules read.
fn doubt<'a>(by: &str, kind: &str, rules: impl Iterator<Item = &'a Enforced<'a>>) -> Option<String> {
    let is_in_head = |reading: &&Reading| !matches!(reading.spot, Spot::Metadata(_));
    let mut names = Vec::new();
    let mut read: Vec<String> = Vec::new();
    for rule in rules {
        let words: Vec<_> = rule.readings.iter().filter(is_in_head).map(|reading| reading.spot.words()).collect();
        if !words.is_empty() {
            names.push(rule.name);
            let new: Vec<_> = words.into_iter().filter(|words| !read.contains(words)).collect();
            read.extend(new);
        }
    }
    let how = match kind {
        "ext_authz" => "what its service answers (x-envoy-auth-headers-to-remove, and headers of its own)",
        "ext_proc" => "what its service answers (remove_headers, set_headers)",
        _ => "its program",
    };
    (!names.is_empty()).then(|| {
        let is = if read.len() == 1 { "is" } else { "are" };
        format!(
            "{by} stands before this filter and can remove or replace credentials by {how}, which the file does not tell: \
             see to it that {}, which scope.caller of {} reads, {is} still there behind it and {is} the caller's own",
            all(&read),
            rules_named(&names)
        )
    })
}

/// What Istio's own resources in the file do to the requests of this EnvoyFilter or WasmPlugin.
fn of_istio(carrier: Carrier<'_>, rules: &[Enforced<'_>], trees: &[Value]) -> Findings {
    let Some(stand) = istio::stand(carrier, trees) else { return Findings::default() };
    let mut providers = Vec::new();
    let mut warnings = Vec::new();
    for resource in trees.iter().filter(|resource| stand.shares_workloads_with(resource)) {
        let by = crate::locate::kubernetes_name(resource);
        if resource["kind"] == "RequestAuthentication" {
            providers.extend(tokens::of_istio(resource).map(|provider| (by.clone(), provider)));
        }
        if stand.is_last && resource["kind"] == "AuthorizationPolicy" && resource["spec"]["action"] == "CUSTOM" {
            warnings.extend(doubt(&by, "ext_authz", rules.iter()));
        }
    }
    let has_others = tokens::issuers(providers.iter().map(|(_, provider)| provider)).len() > 1;
    let of_each = |(by, provider): &(String, Value)| {
        tokens::of_provider(by, provider, tokens::grant_of_istio(provider, has_others))
    };
    let acts: Vec<_> = providers.iter().flat_map(of_each).collect();
    let mut losses = Losses::default();
    rules.iter().for_each(|rule| losses.look_for(rule, &acts, ""));
    warnings.extend(identity::of_providers(&providers, rules));
    let asked = || {
        let each = providers.iter().map(|(by, value)| {
            let name = value["issuer"].as_str().unwrap_or("without a name");
            Provider { by, name, is_istio: true, value }
        });
        each.collect::<Vec<_>>()
    };
    warnings.extend(issuers::warnings(rules, |_| vec![asked()]));
    warnings.extend(metadata::of_providers(rules, |_| vec![asked()]));
    warnings.extend(sources::of_providers(&asked(), rules));
    warnings.extend(sources::by_default(rules, |_| vec![asked()]));
    Findings { errors: losses.told(), warnings }
}
